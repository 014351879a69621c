"""A sweep's folder: made when the sweep is opened, found again when it goes on."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.exceptions import (
    ConfigError,
    Fault,
    IncompatibleConfigError,
    InvalidConfigError,
    JobInUseError,
    JobNotFoundError,
)
from finetune_core.jobs import jobs_folder, model_name, open_job, organization_folder
from finetune_core.storage import write_json
from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.space import VALID_LOSS, Assignment, goal, resolve, trial_config
from finetune_core.sweep.study import Study, Tried
from finetune_core.sweep.trials import SweepResult, TrialRecord, read_outcome, read_story
from finetune_core.types import Job, job_id_of

FILE, STUDY, RESULT, LOCK = "sweep.json", "study.journal", "result.json", "lock"
MAY_CHANGE = {"trials", "parallel"}  # while a sweep is not at work


class Sweep:
    """A sweep that is worked on.

    Args:
        sweep_id: Its id.
        organization: Whose it is.
        config: What holds for all trials.
        tries: What is tried.
        folder: Its files.
        created: When it began, in seconds since 1970.
    """

    def __init__(
        self,
        sweep_id: str,
        organization: str,
        config: PipelineConfig,
        tries: SweepConfig,
        folder: Path,
        created: float,
    ) -> None:
        self.id, self.organization, self.folder = sweep_id, organization, folder
        self.config, self.tries = config, tries
        self.name = model_name(config)
        self.goal = goal(tries, config)
        self.space = resolve(tries, config)
        self.study = Study(folder / STUDY, tries, self.space, self.goal)
        self._created = created

    def job(self, number: int) -> Job:
        """The job of a trial, whether it has begun or not: a trial's id is always the same."""
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.organization}/{self.id}/{number}")
        made = datetime.fromtimestamp(self._created + number / 1000, timezone.utc)
        job_id = job_id_of(name, made)
        folder = jobs_folder(self.organization, self.config.training.output_dir) / job_id
        return Job(id=job_id, name=self.name, organization=self.organization, folder=folder)

    def trial_config(self, values: Assignment) -> PipelineConfig:
        """The config of a trial; raises as `space.trial_config`."""
        return trial_config(self.config, values)

    def due(self) -> Iterator[Tried]:
        """The trials to be run: those that had begun, then one more as often as one is taken.

        Each has its job's folder. Values that exclude each other make a trial that has failed, and
        are passed over.
        """
        begun = iter(self.study.go_on())
        while trial := next(begun, None) or self.study.ask():
            if self._open(trial):
                yield trial

    def _open(self, trial: Tried) -> bool:
        """Makes a trial's folder, where it is not there; says whether its values are possible."""
        try:
            config = self.trial_config(trial.values)
        except ConfigError as error:
            self.study.failed(trial.number, error.message)
            return False
        open_job(config, self.organization, job_id=self.job(trial.number).id)
        return True

    def settle(self, number: int, problem: str | None = None) -> TrialRecord:
        """Closes a trial whose job has ended, by what that has left.

        Args:
            number: The trial's.
            problem: Why it has ended, where its job may not say so.
        """
        trial, outcome = self.study.trial(number), read_outcome(self.job(number))
        if outcome.get("status") == "succeeded":
            self._measure(number)
        elif trial.stopped_at is not None:
            self.study.pruned(number)
        else:
            said = (outcome.get("error") or {}).get("message")
            self.study.failed(number, said or problem or "its job has ended without a result")
        return self.record(number)

    def record(self, number: int) -> TrialRecord:
        """What is known of a trial."""
        trial, job = self.study.trial(number), self.job(number)
        outcome, story = read_outcome(job), read_story(job)
        registered = outcome.get("registered") or {}
        return TrialRecord(
            number=number,
            state=trial.state,
            values=trial.values,
            value=trial.value,
            valid_loss=story.valid_loss,
            seconds=story.seconds,
            cached=story.cached,
            metrics=outcome.get("metrics") or {},
            job_id=job.id,
            version=registered.get("version"),
            stopped_at=trial.stopped_at,
            problem=trial.problem,
        )

    def records(self) -> list[TrialRecord]:
        """What is known of all trials, in order."""
        return [self.record(each.number) for each in self.study.trials()]

    def best(self) -> TrialRecord | None:
        """The best of the completed trials."""
        found = self.study.best()
        return None if found is None else self.record(found.number)

    def keep(self, result: SweepResult) -> None:
        """Writes down what the sweep has come to."""
        write_json(self.folder / RESULT, result.model_dump(mode="json"))

    def result(self) -> SweepResult | None:
        """What it came to, where that was written down and no trial has been added since."""
        file = self.folder / RESULT
        if not file.exists():
            return None
        result = SweepResult.model_validate(json.loads(file.read_text()))
        return result if len(result.trials) == len(self.study.trials()) else None

    def _measure(self, number: int) -> None:
        job, metric = self.job(number), self.goal.metric
        metrics = read_outcome(job).get("metrics") or {}
        value = read_story(job).chosen_loss if metric == VALID_LOSS else metrics.get(metric)
        if value is None:
            known = ", ".join([VALID_LOSS, *metrics])
            self.study.failed(number, f"{metric} was not measured, only {known}")
        elif math.isnan(value):
            self.study.failed(number, f"{metric} is not a number")
        else:
            self.study.completed(number, value)


@contextmanager
def working_on_sweep(
    config: PipelineConfig, tries: SweepConfig, organization: str, sweep_id: str
) -> Iterator[Sweep]:
    """Opens a sweep, or one that goes on, and keeps other processes from it while the block lasts.

    Raises:
        ConfigError: The space does not fit the config, or the sweep began with another of either.
        JobInUseError: Another process works on the sweep.
    """
    goal(tries, config)
    resolve(tries, config)  # before anything is written
    folder = sweep_folder(organization, sweep_id)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise JobInUseError(
            f"another process works on {sweep_id}", hint="Wait until it ends, or end it."
        ) from None
    try:
        created = _keep(folder / FILE, config, tries)
        yield Sweep(sweep_id, organization, config, tries, folder, created)
    finally:
        lock.release()


def find_sweep(organization: str, sweep_id: str) -> tuple[PipelineConfig, SweepConfig]:
    """What a sweep that is to go on was told.

    Raises:
        JobNotFoundError: There is no such sweep.
    """
    file = sweep_folder(organization, sweep_id) / FILE
    if not file.is_file():
        raise JobNotFoundError(f"there is no sweep {sweep_id} in {file.parent.parent}")
    known = json.loads(file.read_text())
    return PipelineConfig.parse(known["config"]), SweepConfig.parse(known["sweep"])


def sweep_folder(organization: str, sweep_id: str) -> Path:
    """The folder of a sweep's own files; its trials' jobs lie where jobs do.

    Raises:
        InvalidConfigError: The id could lead out of it.
    """
    plain = sweep_id.replace("-", "").replace("_", "")
    if not (plain.isascii() and plain.isalnum() and sweep_id[0].isalnum() and len(sweep_id) <= 64):
        problem = f"must be letters, digits, - and _ (got {sweep_id!r})"
        raise InvalidConfigError([Fault("sweep_id", problem)])
    return organization_folder(organization) / "sweeps" / sweep_id


def _keep(file: Path, config: PipelineConfig, tries: SweepConfig) -> float:
    """Writes down what a sweep is told, or compares it; gives the time when it began."""
    told: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "sweep": tries.model_dump(mode="json"),
    }
    created = time.time()
    if file.exists():
        known = json.loads(file.read_text())
        created = float(known["created_at"])
        faults = []
        if known["config"] != told["config"]:
            faults.append(Fault("config", f"the sweep began with another config ({file})"))
        for name, value in told["sweep"].items():
            if name not in MAY_CHANGE and known["sweep"].get(name) != value:
                faults.append(Fault(name, f"was {known['sweep'].get(name)!r} when it began"))
        if faults:
            raise IncompatibleConfigError(faults)
        if known["sweep"] == told["sweep"]:
            return created
    write_json(file, {"created_at": created, **told})
    return created
