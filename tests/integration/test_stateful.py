"""Random sequences of what may be asked of jobs and done to them, and what stays true throughout.

A sequence's jobs are real, as is all that they run on. What happens between two steps is for the
scheduler of the machine to tell, so a seed gives the same steps, but not always the same states.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from finetune_service.jobs.states import FINAL, LEADS, Status, Verb, may_become
from tests.chaos.faults import FAULTS
from tests.chaos.judge import faults_in_events, faults_in_steps
from tests.chaos.lab import JOBS, USUAL, Lab, LabJob, lab
from tests.integration.stack import need_postgresql
from tests.waiting import until

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

EPOCHS = 2
STEPS = 8  # or hypothesis tries sequences of none too
MOST_JOBS = 2
MOST_KILLS = 2  # of one job: a task is tried three times
CHANGE_SECONDS = 20
END_SECONDS = 300
POLL_SECONDS = 0.3

FEW = settings(
    max_examples=3,
    stateful_step_count=STEPS,
    derandomize=True,
    database=None,
    deadline=None,
    # To make a sequence shorter would take minutes a try, and others might come of the same steps.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MORE = settings(FEW, max_examples=8, stateful_step_count=14, derandomize=False)
SEEDS = (1, 2, 3)

AT = st.integers(0, MOST_JOBS - 1)
names = (f"job-{number}" for number in count())


@dataclass
class Known:
    """What is known of a job."""

    job: LabJob
    status: Status = Status.QUEUED
    outcome: bytes | None = None
    cancelled: bool = False
    kills: int = 0
    seen: list[str] = field(default_factory=list)


class Jobs(RuleBasedStateMachine):
    """Jobs, and all that may be asked of them and done to them."""

    lab: Lab

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Known] = []
        self.others = self.listed()
        say("-- a sequence")

    @initialize()
    def begin(self) -> None:
        self.make(twice=False)

    @rule(twice=st.booleans())
    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    def create(self, twice: bool) -> None:
        self.make(twice=twice)

    @rule(at=AT)
    def cancel(self, at: int) -> None:
        self.ask(Verb.CANCEL, at)

    @rule(at=AT)
    def pause(self, at: int) -> None:
        self.ask(Verb.PAUSE, at)

    @rule(at=AT)
    def resume(self, at: int) -> None:
        self.ask(Verb.RESUME, at)

    @rule(at=AT)
    def checkpoint(self, at: int) -> None:
        self.ask(Verb.CHECKPOINT, at)

    @rule(at=AT)
    def wait(self, at: int) -> None:
        """Until something has changed, if it does."""
        known = self.known(at)
        began, deadline = self.traces(known), time.monotonic() + CHANGE_SECONDS
        while self.traces(known) == began and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        say(f"{known.job.model}: waits in {known.status.value}, step {known.job.step()}")

    @rule(at=AT, victim=st.sampled_from(["trainer", "flow", "api"]))
    def kill(self, at: int, victim: str) -> None:
        known = self.known(at)
        if victim == "api":
            say("the API is killed")
            self.lab.restart_api()
        elif known.kills < MOST_KILLS:
            hit = FAULTS[victim].strike(self.lab, known.job) is not None
            known.kills += hit
            say(f"{known.job.model}: its {victim} {'is killed' if hit else 'is not there'}")

    @invariant()
    def all_is_in_order(self) -> None:
        for known in self.jobs:
            self.look(known)
            assert not faults_in_events(known.job.events())
            assert not faults_in_steps(known.job.trained())
            assert self.lab.versions(known.job) <= 1

    def teardown(self) -> None:
        if sys.exc_info()[0]:  # what went wrong stands already; the next sequence wants the worker
            for known in self.jobs:
                self.lab.end(known.job)
            return
        for known in self.jobs:
            until(lambda known=known: self.ended(known), f"{known.seen} goes on", END_SECONDS)
        self.lab.until_healthy()
        for known in self.jobs:
            self.lab.until_gone(known.job)
            wanted = FINAL - {Status.FAILED} if known.cancelled else {Status.SUCCEEDED}
            assert known.status in wanted, known.job.outcome()
            assert self.lab.versions(known.job) == (known.status is Status.SUCCEEDED)
        self.all_is_in_order()
        assert self.listed() - self.others == {known.job.id for known in self.jobs}

    def make(self, *, twice: bool) -> None:
        """Makes a job, perhaps by asking twice for the same."""
        name = next(names)
        key = name if twice else None
        job = self.lab.create(name, epochs=EPOCHS, key=key)
        say(f"{name}: {job.id}{', twice' if twice else ''}")
        if twice:
            assert self.lab.create(name, epochs=EPOCHS, key=key) == job
        self.jobs.append(Known(job))

    def ask(self, verb: Verb, at: int) -> None:
        """Asks for something, which is refused where the table refuses it and nowhere else."""
        known = self.known(at)
        before = self.look(known)
        answer = self.lab.ask(verb, known.job)
        after = self.look(known)
        say(f"{known.job.model}: {verb.value} in {before.value}: {answer.status_code}")
        possible = {before, after}
        if before is not after:
            possible |= {each for each in Status if is_between(before, each, after)}
        granted = {each for each in possible if is_granted(verb, each)}
        assert answer.status_code in (200, 409), answer.text
        assert granted if answer.status_code == 200 else possible - granted, answer.text
        known.cancelled |= verb is Verb.CANCEL and answer.is_success

    def known(self, at: int) -> Known:
        """The job of a number, or the one job that there is."""
        return self.jobs[min(at, len(self.jobs) - 1)]

    def look(self, known: Known) -> Status:
        """A job's state, to which there was a way; how it has ended never changes."""
        told = until(lambda: self.lab.status(known.job), f"{known.job.id} is not told of")
        status = Status(told)
        if status is not known.status:
            known.seen.append(status.value)
            assert may_become(known.status, status), known.seen
        file = known.job.folder / "outcome.json"
        outcome = file.read_bytes() if file.exists() else None
        assert known.outcome in (None, outcome), (known.outcome, outcome)
        known.status, known.outcome = status, outcome
        return status

    def ended(self, known: Known) -> bool:
        """Whether a job has; a paused one is resumed."""
        if self.look(known) is Status.PAUSED:
            answer = self.lab.ask(Verb.RESUME, known.job)
            say(f"{known.job.model}: resume in the end: {answer.status_code}")
            assert answer.is_success, answer.text
        time.sleep(POLL_SECONDS)
        return known.status in FINAL

    def traces(self, known: Known) -> tuple[Status, int]:
        return self.look(known), known.job.step()

    def listed(self) -> set[str]:
        """The ids of all jobs."""
        answer = self.lab.service.ask("GET", JOBS, USUAL, params={"limit": 100})
        return {each["id"] for each in answer.raise_for_status().json()["data"]}


def is_granted(verb: Verb, status: Status) -> bool:
    """Whether a verb may be asked in a state; where it has led already, it does no harm."""
    return status in LEADS[verb] or status in LEADS[verb].values()


def is_between(before: Status, status: Status, after: Status) -> bool:
    return may_become(before, status) and may_become(status, after)


def say(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {what}\n")


@pytest.fixture(scope="module")
def machine():
    need_postgresql()
    with lab(FINETUNE_WORKER_LIMIT="2") as running:
        yield type("JobsOfLab", (Jobs,), {"lab": running})


def test_whatever_is_asked_and_done_jobs_keep_to_their_states(machine):
    run_state_machine_as_test(machine, settings=FEW, _min_steps=STEPS)


@pytest.mark.parametrize("number", SEEDS)
def test_more_sequences(machine, number):
    say(f"-- seed {number}")
    run_state_machine_as_test(
        seed(number)(type("Seeded", (machine,), {})), settings=MORE, _min_steps=STEPS
    )
