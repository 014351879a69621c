"""JobService: the jobs of one organisation, created, looked at and controlled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError  # before Python 3.11, not the builtin
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from finetune_core.failures import WORKER_LOST
from finetune_core.job_events import JobEvents
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.control import Control, Wish
from finetune_service.exceptions import InvalidValueError, NotFoundError
from finetune_service.files import FileStore
from finetune_service.files.records import is_id
from finetune_service.jobs.base_models import BaseModels
from finetune_service.jobs.creation import Creation
from finetune_service.jobs.endings import close, result_files
from finetune_service.jobs.lines import backwards
from finetune_service.jobs.logs import log_lines
from finetune_service.jobs.paths import without_paths
from finetune_service.jobs.prefect_client import PrefectRefusedError, PrefectUnavailableError
from finetune_service.jobs.progress import step_metrics
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.request import NewJob
from finetune_service.jobs.scheduler import ChangedError, RunState, Scheduler
from finetune_service.jobs.states import FINAL, WAITING, Status, Verb, check
from finetune_service.jobs.store import KIND, KNOWN, JobStore
from finetune_service.jobs.views import JobCheckpoint, JobEvent, JobView, view_of

# What a request waits for its turn at Prefect, which takes some ten new runs a second and no more.
PATIENCE_SECONDS = 0.1
PROGRESS = ("checkpoint", "stage_ended")  # events behind which nothing is lost any more

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Jobs:
    """The job service of an installation: `of` gives an organisation its own.

    Attributes:
        store: The jobs' folders.
        files: What jobs learn from, and where their results go.
        scheduler: Prefect.
        base_models: What jobs may begin from.
        limit: The jobs of one organisation that Prefect is given at once; others wait here.
        submissions: Tells Prefect of new jobs, one after the other.
        ended: The views of ended jobs by their ids, each with the outcome that it tells of: they
            do not change any more, and reading them takes longer than all else in a list.
    """

    store: JobStore
    files: FileStore
    scheduler: Scheduler
    base_models: BaseModels
    limit: int | None = None
    submissions: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "submissions")
    )
    ended: dict[str, tuple[Outcome, JobView]] = field(default_factory=dict)

    def of(self, organization: str) -> JobService:
        """An organisation's jobs."""
        return JobService(self, organization)

    def uses(self, organization: str, file_id: str) -> bool:
        """Whether a queued or running job needs a file."""
        return any(file_id in record.file_ids for record in self.store.unfinished(organization))


class JobService:
    """The jobs of one organisation. It keeps nothing: folders and Prefect do.

    Args:
        jobs: The installation's.
        organization: Whose jobs.
    """

    def __init__(self, jobs: Jobs, organization: str) -> None:
        self.organization = organization
        self._store, self._files, self._scheduler = jobs.store, jobs.files, jobs.scheduler
        self._limit, self._submissions, self._ended = jobs.limit, jobs.submissions, jobs.ended
        self._creation = Creation(jobs.store, jobs.files, jobs.base_models, organization)

    def create(self, wanted: NewJob, *, idempotency_key: str | None = None) -> JobView:
        """Makes a job and submits it.

        Where Prefect surely has not heard of it, there is no job, and it may be asked for again.
        Where it may have, or is too busy to hear of it at once, the job stands, and is submitted
        later: that makes no second run.

        Args:
            wanted: The request.
            idempotency_key: The same key again gives the same job.

        Raises:
            InvalidValueError: Something in the request is wrong.
            NotFoundError: A file is not there.
            UnavailableError: Prefect is away; there is no job.
        """
        record, new = self._creation.make(wanted, self._scheduler.deployment, idempotency_key)
        if not new:
            return self.look(record)
        self._events(record).say("created", f"Created fine-tuning job: {record.id}")
        try:
            submission = self._submissions.submit(self._submit, record)
            record = submission.result(PATIENCE_SECONDS)
        except NotYetError:
            pass  # its turn comes; should it fail then, the keeper submits it again
        except PrefectUnavailableError as error:
            if not error.sent:
                self._store.withdraw(record)
                raise
            log.warning("%s may not be submitted yet: %s", record.id, error)
        except PrefectRefusedError:
            self._store.withdraw(record)
            raise
        return self._view(record, None, RunState("SCHEDULED", time.time(), None))

    def _submit(self, record: JobRecord) -> JobRecord:
        """Gives a new job to Prefect, where its organisation may have one more there."""
        if not self.has_room():
            self._events(record).say("waits", "The job waits for others of the organisation.")
            return record
        record = self.submitted(record)
        self._events(record).say("queued", "The job is queued.")
        return record

    def submitted(self, record: JobRecord) -> JobRecord:
        """A job that has a flow run: it is submitted where it has none yet.

        Raises:
            UnavailableError: Prefect is away.
        """
        record = self._store.get(self.organization, record.id) or record  # as it is by now
        if record.flow_run_id is not None:
            return record
        config = self._store.config(record)
        run_id = self._scheduler.submit(record.id, self.organization, config, record.priority)
        return self._store.change(record, flow_run_id=run_id)

    def has_room(self) -> bool:
        """Whether one more job may be submitted; paused ones hold no place.

        Raises:
            UnavailableError: Prefect is away.
        """
        if self._limit is None:
            return True
        unfinished = self._store.unfinished(self.organization)
        runs = [record.flow_run_id for record in unfinished if record.flow_run_id]
        at_work = (Status.QUEUED, Status.RUNNING)
        states = self._scheduler.states(runs).values()
        return sum(state.status in at_work for state in states) < self._limit

    def settle(self, records: Iterable[JobRecord]) -> None:
        """Does what nobody else does for jobs whose flows are lost, abandoned, or have ended.

        Raises:
            UnavailableError: Prefect is away.
        """
        by_run = {each.flow_run_id: each for each in records if each.flow_run_id}
        for run_id, state in self._scheduler.unsettled(by_run).items():
            if state.is_lost and self._started_again(by_run[run_id], run_id, state):
                continue
            if state.is_abandoned:
                # Its process may have outlived its worker: so it ends at its next step.
                self._control(by_run[run_id]).ask(Wish.PAUSE)
                state = self._scheduler.give_up(run_id)
            if state.is_lost:
                state = self._scheduler.fail(run_id, f"Lost too often: {state.message}")
            close(self._store, by_run[run_id], state)

    def _started_again(self, record: JobRecord, run_id: str, state: RunState) -> bool:
        """Has a lost run go on from its last checkpoint, unless it was lost too often there."""
        last = next((event for _, event in backwards(self._store.job(record).events)), {})
        if last.get("name") == "paused":  # it was lost after that, on its way out
            self._scheduler.hold(run_id)
            return True
        if self._scheduler.keep_waiting(run_id):
            return True
        tries = self._restarts(record)
        if tries >= len(WORKER_LOST.backoff):
            return False
        self._scheduler.start_again(run_id, WORKER_LOST.backoff[tries])
        why = state.message or "nothing was heard of it any more"
        self._events(record).say(
            "restarted",
            f"The job's process was lost ({why}); it goes on from its last checkpoint, "
            f"restart {tries + 1} of {len(WORKER_LOST.backoff)} without a new one.",
            level="warn",
            restart=tries + 1,
        )
        return True

    def _restarts(self, record: JobRecord) -> int:
        """How often a job was started again since it last had something to go on from."""
        restarts = 0
        for _, event in backwards(self._store.job(record).events):
            restarts += event.get("name") == "restarted"
            if event.get("name") in PROGRESS:
                break
        return restarts

    def fail(self, record: JobRecord, message: str) -> None:
        """Closes a job that cannot be submitted."""
        close(self._store, record, RunState("FAILED", time.time(), message))

    def find(self, name: str) -> JobRecord:
        """A job by its id, or the newest of a name.

        Raises:
            NotFoundError: There is none.
        """
        if is_id(KIND, name):
            record = self._store.get(self.organization, name)
        else:
            record = self._store.find(self.organization, name)
        if record is None:
            raise NotFoundError(f"No such FineTuningJob object: {name}")
        return record

    def find_model(self, name: str) -> JobRecord | None:
        """The job whose model has an id, whether the model is made yet or not."""
        return self._store.find_model(self.organization, name)

    def get(self, name: str) -> JobView:
        """A job as it is now, by its id or its name."""
        return self.look(self.find(name))

    def list(
        self, limit: int, *, after: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> tuple[JobView, ...]:
        """The first jobs, the newest first.

        Args:
            limit: How many at most.
            after: Only those older than this one.
            metadata: Only those that have all of these pairs; empty, only those that have none.

        Raises:
            InvalidValueError: `after` is no job's id.
        """
        if after is not None and not is_id(KIND, after):
            raise InvalidValueError(f"No such FineTuningJob object: {after}", param="after")
        records = self._store.records(self.organization, after=after)
        return self.look_at(islice((each for each in records if _has(each, metadata)), limit))

    def look(self, record: JobRecord) -> JobView:
        """A job as it is now."""
        return self.look_at([record])[0]

    def queue_position(self, view: JobView) -> int | None:
        """The place of a waiting job among all that wait, the more urgent first, from 1 on."""
        if view.status not in WAITING or view.record.flow_run_id is None:
            return None
        return self._scheduler.position(view.record.flow_run_id)

    def cancel(self, name: str) -> JobView:
        """Ends a job; raises as `check` does."""

        def work(record: JobRecord, run_id: str, _: Status) -> None:
            self._scheduler.cancel(run_id)

        return self._ask(Verb.CANCEL, name, work)

    def pause(self, name: str) -> JobView:
        """Has a job save a checkpoint and free its device; raises as `check` does."""

        def work(record: JobRecord, run_id: str, status: Status) -> None:
            # The flag first: should the job start in this moment, it finds it.
            self._control(record).ask(Wish.PAUSE)
            if status in WAITING:
                self._scheduler.hold(run_id)

        return self._ask(Verb.PAUSE, name, work)

    def resume(self, name: str) -> JobView:
        """Has a paused job go on; raises as `check` does."""

        def work(record: JobRecord, run_id: str, _: Status) -> None:
            self._control(record).done(Wish.PAUSE)
            self._scheduler.resume(run_id)

        return self._ask(Verb.RESUME, name, work)

    def checkpoint_now(self, name: str) -> JobView:
        """Has a running job save a checkpoint; raises as `check` does."""

        def work(record: JobRecord, _: str, __: Status) -> None:
            self._control(record).ask(Wish.CHECKPOINT)

        return self._ask(Verb.CHECKPOINT, name, work)

    def events(self, record: JobRecord, *, before: int | None = None) -> Iterator[JobEvent]:
        """A job's events, the newest first.

        Args:
            record: The job.
            before: Only those before the event at this position.
        """
        for position, event in backwards(self._store.job(record).events, before):
            yield JobEvent(position, self._shown(event))

    def logs(self, record: JobRecord) -> Iterator[str]:
        """What a job's processes have written, line by line."""
        return map(self._shown, log_lines(self.folder(record)))

    def checkpoints(self, record: JobRecord) -> Iterator[JobCheckpoint]:
        """A job's checkpoints that are still there, the newest first."""
        folder = self.folder(record)
        measured = {each["step"]: each for each in step_metrics(folder)}
        for checkpoint in reversed(Checkpoints(folder / "checkpoints").all()):
            metrics = measured.get(checkpoint.step, {"step": checkpoint.step})
            yield JobCheckpoint(checkpoint, checkpoint.folder.stat().st_mtime, metrics)

    def folder(self, record: JobRecord) -> Path:
        """A job's folder."""
        return self._store.folder(self.organization, record.id)

    def _ask(
        self, verb: Verb, name: str, work: Callable[[JobRecord, str, Status], None]
    ) -> JobView:
        record = self.find(name)
        view = self.look(record)
        if not check(verb, view.status, record.id):
            return view
        record = self.submitted(record)
        self._events(record).say(f"{verb.value}_requested", f"The job was asked to {WORDS[verb]}.")
        try:
            work(record, str(record.flow_run_id), view.status)
        except ChangedError:  # in this moment: it may have led there by itself, or it is too late
            self._scheduler.state(str(record.flow_run_id))
            view = self.look(record)
            if check(verb, view.status, record.id):
                raise
            return view
        return self.look(record)

    def look_at(self, records: Iterable[JobRecord]) -> tuple[JobView, ...]:
        """Jobs as they are now; Prefect is asked only of those that have not ended, and once."""
        found = [(record, self._store.outcome(record)) for record in records]
        runs = [record.flow_run_id for record, outcome in found if outcome is None]
        states = self._scheduler.states(filter(None, runs)) if any(runs) else {}
        return tuple(
            self._view(record, outcome, states.get(record.flow_run_id or ""))
            for record, outcome in found
        )

    def _view(self, record: JobRecord, outcome: Outcome | None, state: RunState | None) -> JobView:
        known, view = self._ended.get(record.id, (None, None))
        if outcome and view and known is outcome:
            return view
        view = self._new_view(record, outcome, state)
        if outcome:
            while len(self._ended) >= KNOWN:
                self._ended.pop(next(iter(self._ended), ""), None)
            self._ended[record.id] = (outcome, view)
        return view

    def _new_view(
        self, record: JobRecord, outcome: Outcome | None, state: RunState | None
    ) -> JobView:
        status = outcome.status if outcome else state.status if state else Status.QUEUED
        if outcome is None and state and status in FINAL:
            try:
                outcome = close(self._store, record, state)
            except OSError as full:  # the disk, perhaps; the keeper tries again
                log.warning("%s is not closed yet: %s", record.id, full)
            else:
                status = outcome.status
        if outcome and outcome.error:
            error = outcome.error.model_copy(update={"message": self._shown(outcome.error.message)})
            outcome = outcome.model_copy(update={"error": error})
        if status is Status.QUEUED and self._is_being_checked(record):
            status = Status.VALIDATING_FILES
        results = result_files(self._store, self._files, record) if outcome else ()
        return view_of(self._store.job(record), record, status, outcome, results)

    def _is_being_checked(self, record: JobRecord) -> bool:
        """Whether one of a job's files was uploaded so lately that its check has not ended."""
        for file_id in record.file_ids:
            try:
                if file_id and self._files.get(self.organization, file_id).status == "uploaded":
                    return True
            except NotFoundError:
                continue
        return False

    def _control(self, record: JobRecord) -> Control:
        return Control(self._store.job(record).control)

    def _events(self, record: JobRecord) -> JobEvents:
        return JobEvents(self._store.job(record))

    def _shown(self, said: T) -> T:
        """What was said for the operator too, without where things lie on this machine."""
        shown: T = without_paths(said, self._store.home_of(self.organization))
        return shown


WORDS = {
    Verb.CANCEL: "end",
    Verb.PAUSE: "pause",
    Verb.RESUME: "go on",
    Verb.CHECKPOINT: "save a checkpoint",
}


def _has(record: JobRecord, metadata: Mapping[str, str] | None) -> bool:
    if metadata is None:
        return True
    known = record.metadata or {}
    return metadata.items() <= known.items() if metadata else not known
