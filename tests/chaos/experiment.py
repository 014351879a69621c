"""One run: a job, a fault at a moment, and what came of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from finetune_service.jobs.states import FINAL, Status, Verb
from tests.chaos.faults import FAULTS
from tests.chaos.judge import faults_in_events, faults_in_steps, recovered_at, redone
from tests.chaos.lab import USUAL, Lab, LabJob

LIMIT_SECONDS = 300
POLL_SECONDS = 0.5

Moment = Callable[[LabJob], None]
"""Waits until it is time to strike."""


@dataclass
class Result:
    """What came of a run.

    Attributes:
        fault: What was done.
        job: The job's id.
        hit: Whether the fault found its victim, before the job had ended.
        complaints: What was wrong after it; nothing where all is as if nothing had happened.
        moment: When it hit, in seconds after the job was made.
        seconds: From there to the next training step, or to the job's end.
        redone: The steps that were done more than once.
        identical: Whether the adapter's files are the same as undisturbed.
        took: The whole job's seconds.
        kept: Where the traces of a run with complaints lie.
    """

    fault: str
    job: str
    hit: bool = False
    complaints: list[str] = field(default_factory=list)
    moment: float | None = None
    seconds: float | None = None
    redone: int = 0
    identical: bool = False
    took: float = 0.0
    kept: str | None = None

    @property
    def recovered(self) -> bool:
        """Whether all is as it should be."""
        return not self.complaints

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "recovered": self.recovered}


def undisturbed(
    lab: Lab, epochs: int, *, limit: float = LIMIT_SECONDS
) -> tuple[dict[str, str], float]:
    """A job that nothing happens to: the digests of its adapter, and its seconds."""
    lab.empty_cache(USUAL)
    job = lab.create("undisturbed", epochs=epochs)
    began = time.monotonic()
    complaints = _watched(lab, job, limit, resumes=False)
    took = time.monotonic() - began
    complaints += _judged(lab, job)
    if complaints:
        raise AssertionError(f"a job that nothing happens to: {complaints}")
    return job.digests(), took


def disturbed(
    lab: Lab,
    name: str,
    fault: str,
    moment: Moment,
    *,
    epochs: int,
    digests: dict[str, str],
    limit: float = LIMIT_SECONDS,
) -> Result:
    """A job that something happens to.

    Args:
        lab: Where.
        name: What its model is called; nobody else's may be.
        fault: What happens.
        moment: When.
        epochs: How long it trains.
        digests: What is to come out.
        limit: The seconds that the job may take in all.
    """
    organization = FAULTS[fault].organization
    lab.empty_cache(organization)
    job = lab.create(name, epochs=epochs, organization=organization)
    result = Result(fault, job.id)
    try:
        _disturb(lab, job, result, moment, limit)
        if (job.outcome() or {}).get("status") == Status.SUCCEEDED:
            others = {file for file, _ in job.digests().items() ^ digests.items()}
            result.identical = not others
            if others:
                result.complaints.append(f"other bytes: {', '.join(sorted(others))}")
    except (AssertionError, OSError, httpx.HTTPError) as error:
        result.complaints.append(f"{type(error).__name__}: {error}")
    if result.complaints:
        result.kept = str(_kept(lab, job))
    return result


def _disturb(lab: Lab, job: LabJob, result: Result, moment: Moment, limit: float) -> None:
    """Strikes, waits for the job's end, and looks."""
    fault = FAULTS[result.fault]
    made, began = time.time(), time.monotonic()
    moment(job)
    struck = None if job.outcome() else fault.strike(lab, job)
    if struck is not None:
        result.hit, result.moment = True, struck - made
    left = began + limit - time.monotonic()
    result.complaints += _watched(lab, job, left, resumes=fault.resumed)
    result.took = time.monotonic() - began
    result.complaints += _judged(lab, job)
    trained, outcome = job.trained(), job.outcome()
    result.redone = redone(trained)
    if struck is not None and outcome:
        ended = recovered_at(trained, struck) or outcome["finished_at"]
        result.seconds = max(0.0, ended - struck)


def _watched(lab: Lab, job: LabJob, seconds: float, *, resumes: bool) -> list[str]:
    """Waits until a job has ended; resumes it where somebody would, or where the next must run."""
    complaints = []
    deadline = time.monotonic() + seconds
    while (status := lab.status(job)) not in FINAL:
        if time.monotonic() > deadline:
            complaints.append(f"it is {status or 'not told of'} when its time is over")
            lab.end(job)
            return complaints
        if status == Status.PAUSED:
            if not resumes:
                complaints.append(f"it paused: {job.events()[-1]['message']}")
            with suppress(httpx.TransportError):  # where the API is not there, the next time
                lab.ask(Verb.RESUME, job)
        time.sleep(POLL_SECONDS)
    if status != Status.SUCCEEDED:
        complaints.append(f"it has {status}: {(job.outcome() or {}).get('error')}")
    return complaints


def _judged(lab: Lab, job: LabJob) -> list[str]:
    """What is wrong after a job's end."""
    complaints = []
    try:
        lab.until_healthy()
    except AssertionError as error:
        complaints.append(str(error))
        lab.service.stack.json("up")  # by a person, for the next run
    try:
        lab.until_gone(job)
    except AssertionError as error:
        complaints.append(str(error))
    outcome = job.outcome()
    if outcome is None:
        return [*complaints, "it has no outcome"]
    versions, runs = lab.versions(job), lab.runs(job)
    if versions != (outcome["status"] == Status.SUCCEEDED):
        complaints.append(f"{versions} versions are registered")
    if runs != 1:
        complaints.append(f"MLflow has {runs} runs of it")
    return [*complaints, *faults_in_events(job.events()), *faults_in_steps(job.trained())]


def _kept(lab: Lab, job: LabJob) -> Path:
    """Copies a job's folder and the stack's logs to where they outlive the stack."""
    kept = Path(tempfile.mkdtemp(prefix="chaos-"))
    shutil.copytree(job.folder, kept / job.id, dirs_exist_ok=True)
    shutil.copytree(lab.service.stack.home / "stack" / "logs", kept / "logs")
    return kept
