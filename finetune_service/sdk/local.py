"""LocalBackend: jobs on this machine, each a process of its own and a folder that tells of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.settings import Settings
from finetune_core.data.loading import find_files
from finetune_core.exceptions import FineTuneError, InputError, error_from_dict
from finetune_core.jobs import CONFIG, LOCK, jobs_folder, model_name
from finetune_core.models.tasks import find_tokenization
from finetune_core.trainers.control import Control, Wish
from finetune_core.types import new_job_id
from finetune_service.exceptions import ConflictError, InvalidValueError, NotFoundError
from finetune_service.files.records import is_id
from finetune_service.jobs.lines import backwards
from finetune_service.jobs.logs import log_lines
from finetune_service.jobs.record import JobError, JobRecord, Outcome
from finetune_service.jobs.request import NewJob, build_config, resolved
from finetune_service.jobs.states import Status, Verb, check
from finetune_service.jobs.store import KIND, JobStore
from finetune_service.jobs.views import view_of
from finetune_service.sdk.process import FlowProcess
from finetune_service.sdk.records import JobEvent, JobInfo, moment
from finetune_service.sdk.request import JobRequest

ADAPTER = "adapter"  # the folder of what a job has made
STOPPED = ("paused", "interrupted")  # the last event of a job that can go on
STOPS = ("JobPausedError", "JobInterruptedError")


class LocalBackend:
    """The jobs of this machine, those among them that were started by `finetune-cli train`.

    A job's folder and its process are all there is to know; nothing is kept here, so any process
    may ask for any job.

    Args:
        organization: Whose jobs.
        settings: Where they lie.
    """

    poll_seconds = 0.2

    def __init__(self, organization: str = "local", settings: Settings | None = None) -> None:
        self._organization = organization
        self._store = JobStore((settings or Settings()).home)

    def create(self, wanted: JobRequest) -> JobInfo:
        """Makes a job's folder and starts its process.

        Raises:
            InvalidValueError: A hyperparameter or a setting is wrong.
            DatasetNotFoundError: The dataset is not there.
            ModelNotFoundError: The model is not there.
        """
        training, validation = _absolute(wanted.dataset), wanted.validation
        for path in (training, validation):
            if path is not None:
                find_files(Path(path))
        validation = _absolute(validation) if validation else None
        new = _checked(wanted, training, validation)
        config = build_config(
            new, base=_absolute(new.model), training=training, validation=validation
        )
        find_tokenization(config.tokenization, config.model)
        record = JobRecord(
            id=new_job_id(),
            name=str(config.registry.model_name),
            organization=self._organization,
            created_at=int(time.time()),
            model=wanted.model,
            training_file=training,
            validation_file=validation,
            hyperparameters=resolved(new, config),
            suffix=new.suffix,
            seed=config.training.seed,
            priority=new.priority,
            metadata=new.metadata,
        )
        return self.launch(record, config)

    def launch(self, record: JobRecord, config: PipelineConfig) -> JobInfo:
        """Makes a job's folder and starts its process, each unless that has been done already."""
        jobs_folder(self._organization, None)  # checks the name, and makes the folder private
        if self._store.get(self._organization, record.id) is None:
            self._store.add(record, config)
        with FileLock(self._folder(record) / "asking.lock"):
            if self._status(record) is Status.QUEUED and not self._process(record).started_at:
                self._process(record).start(self._organization)
        return self._info(record)

    def list(self, limit: int) -> list[JobInfo]:
        """The newest jobs first."""
        return [self._info(each) for each in islice(self._records(), limit)]

    def get(self, name: str) -> JobInfo:
        """A job as it is now, by its id, or the newest of a name.

        Raises:
            NotFoundError: There is none.
        """
        return self._info(self._find(name))

    def ask(self, verb: Verb, name: str) -> JobInfo:
        """Does what is asked of a job; a cancelled one has ended when this returns.

        Raises:
            ConflictError: It makes no sense in the job's state.
        """
        record = self._find(name)
        if record.is_prefects:
            raise ConflictError(
                f"{record.id} is run by Prefect, not by a process of its own.",
                hint="Set FINETUNE_API_URL and FINETUNE_API_KEY: the API drives it.",
            )
        control, process = Control(self._store.job(record).control), self._process(record)
        with FileLock(self._folder(record) / "asking.lock"):
            status = self._status(record)
            if check(verb, status, record.id):
                if verb is Verb.CANCEL:
                    self._cancel(record)
                elif verb is Verb.PAUSE:
                    control.ask(Wish.PAUSE)
                elif verb is Verb.CHECKPOINT:
                    control.ask(Wish.CHECKPOINT)
                elif verb is Verb.RESUME:
                    control.done(Wish.PAUSE)
                    process.start(self._organization)
        return self._info(record)

    def events(self, name: str) -> Iterator[JobEvent]:
        """A job's events, the newest first."""
        record = self._find(name)
        for position, event in backwards(self._store.job(record).events):
            yield JobEvent(
                id=f"ftevent-{record.id.partition('-')[2]}-{position:x}",
                time=moment(event["time"]),
                level=event.get("level", "info"),
                type=event.get("type", "message"),
                name=event.get("name", ""),
                message=event.get("message", ""),
                data=event.get("data") or {},
            )

    def model(self, name: str) -> str:
        """The folder of the adapter, or of the whole model, that a job has made.

        Raises:
            ConflictError: It has made none.
        """
        record = self._find(name)
        status = self._status(record)
        if status is not Status.SUCCEEDED:
            raise ConflictError(f"{record.id} is {status.value}, so it has no model.")
        return self._adapter(record)

    def logs(self, name: str) -> Iterator[str]:
        """The logs of a job's processes, the one that was written to last at the end."""
        return log_lines(self._folder(self._find(name)))

    def _records(self) -> Iterator[JobRecord]:
        for job_id in self._store.ids(self._organization):
            if record := self._record(job_id):
                yield record

    def _record(self, job_id: str) -> JobRecord | None:
        """A job's record; one from a shell has none, but its config tells the most of it."""
        if record := self._store.get(self._organization, job_id):
            return record
        file = self._store.folder(self._organization, job_id) / CONFIG
        if not is_id(KIND, job_id) or not file.is_file():
            return None
        record = JobRecord(
            id=job_id,
            name="",
            organization=self._organization,
            created_at=int(file.stat().st_mtime),
            model="",
        )
        config = self._store.config(record)
        told = {"name": model_name(config), "model": config.model.name}
        return record.model_copy(update={**told, "training_file": config.dataset.path})

    def _find(self, name: str) -> JobRecord:
        found = self._record(name)
        found = found or next((each for each in self._records() if each.name == name), None)
        if found is None:
            where = self._store.folder(self._organization, name).parent
            raise NotFoundError(
                f"there is no job {name} in {where}",
                hint="`finetune-cli job list` shows those that there are.",
            )
        return found

    def _folder(self, record: JobRecord) -> Path:
        return self._store.folder(self._organization, record.id)

    def _adapter(self, record: JobRecord) -> str:
        return str(self._folder(record) / ADAPTER)

    def _process(self, record: JobRecord) -> FlowProcess:
        return FlowProcess(self._folder(record))

    def _info(self, record: JobRecord) -> JobInfo:
        status = self._status(record)
        outcome = self._store.outcome(record)
        told = view_of(self._store.job(record), record, status, outcome)
        return JobInfo(
            id=record.id,
            name=record.name,
            model=record.model,
            status=status,
            progress=round(100 * told.share, 1),
            created_at=moment(record.created_at),
            updated_at=moment(told.updated_at),
            finished_at=moment(outcome.finished_at) if outcome else None,
            error=outcome.error.message if outcome and outcome.error else None,
            training_file=record.training_file,
            hyperparameters=record.hyperparameters,
            fine_tuned_model=self._adapter(record) if status is Status.SUCCEEDED else None,
            trained_tokens=outcome.trained_tokens if outcome else None,
            priority=record.priority,
            metadata=record.metadata,
        )

    def _status(self, record: JobRecord) -> Status:
        """What a job's folder and its process say of it."""
        process = self._process(record)
        runs = process.alive()  # asked first: a process writes how it ended before it has
        outcome = self._store.outcome(record)
        if outcome:
            return outcome.status
        events = self._store.job(record).events
        last = next((event for _, event in backwards(events)), None)
        if runs:
            begun = last is not None and last["time"] > (process.started_at or 0)
            return Status.RUNNING if begun else Status.QUEUED
        if self._is_worked_on(record):  # from a shell
            return Status.RUNNING
        error = process.error() or {}
        if record.is_prefects:  # of which the service alone knows more, and says how it ended
            paused = (last or {}).get("name") == "paused"
            return Status.PAUSED if paused else Status.QUEUED
        if (last or {}).get("name") in STOPPED or error.get("error") in STOPS:
            return Status.PAUSED
        if last is None and process.started_at is None:
            return Status.QUEUED
        return self._close(record, error_from_dict(error) if error else None).status

    def _is_worked_on(self, record: JobRecord) -> bool:
        with _tried(self._folder(record) / LOCK) as free:
            return not free

    def _close(self, record: JobRecord, error: FineTuneError | None) -> Outcome:
        """Writes down how a job ended whose process has not."""
        message = str(error) if error else "The job's process ended without a word: killed?"
        code = "user_error" if isinstance(error, InputError) else "error"
        failure = JobError(code=code, message=message)
        outcome = Outcome(status=Status.FAILED, finished_at=time.time(), error=failure)
        return self._store.finish(record, outcome)

    def _cancel(self, record: JobRecord) -> None:
        process = self._process(record)
        if not process.alive() and self._is_worked_on(record):
            raise ConflictError(
                f"{record.id} was started in a shell, not by the SDK.",
                hint="End it there, by Ctrl-C.",
            )
        process.end()
        self._store.finish(record, Outcome(status=Status.CANCELLED, finished_at=time.time()))


@contextmanager
def _tried(file: Path) -> Iterator[bool]:
    """Whether nobody holds a lock; a file that is not there is held by nobody."""
    if not file.exists():
        yield True
        return
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    lock.release()
    yield True


def _absolute(name: str) -> str:
    """A path that means the same from everywhere; an id on a hub stays one."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _checked(wanted: JobRequest, training: str, validation: str | None) -> NewJob:
    """The request as the API would take it, or refuse it."""
    try:
        return NewJob.model_validate(wanted.body(training, validation))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidValueError(f"{where}: {fault['msg']}", param=where) from None
