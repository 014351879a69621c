"""FineTuningJob: one job, started and looked at from Python."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_core.jobs import organization_folder
from finetune_core.storage import digest_file
from finetune_service.jobs.states import Status, Verb
from finetune_service.sdk import backend as backends
from finetune_service.sdk.backend import Backend, open_backend
from finetune_service.sdk.exceptions import JobNotStartedError
from finetune_service.sdk.records import JobEvent, JobStatus
from finetune_service.sdk.request import JobRequest

if TYPE_CHECKING:
    from finetune_core.data.dataset import Dataset


class FineTuningJob:
    """A fine-tuning job: over the API where FINETUNE_API_URL is set, else on this machine.

    Nothing waits: `start` returns when the job is there, and the job goes on when this process
    has ended. `FineTuningJob.attach(id)` finds it again.

    Args:
        model: A name that the API lists, an id on the hub, or on this machine a folder.
        dataset: The training rows, as a file's path or a `Dataset`.
        hyperparameters: `n_epochs`, `batch_size`, `learning_rate`, `lora_rank`, `lora_alpha`,
            `lora_dropout`; what is not given is chosen.
        validation: The path of a file of held-out rows.
        method: lora, qlora, instruction_tuning or full_finetuning.
        suffix: What the model is to be called.
        seed: Decides every draw.
        priority: high, normal or low: which of the jobs that wait begins first.
        metadata: Notes of one's own.
        config: Sections of PipelineConfig, for all else.
        backend: Where it runs, where that is not what the environment says.

    Example:
        >>> job = FineTuningJob("examples/tiny_base", "examples/data/train.jsonl")
        >>> job.get_status()
        Traceback (most recent call last):
        finetune_service.sdk.exceptions.JobNotStartedError: the job has not been started
        Call start() first.
    """

    def __init__(
        self,
        model: str,
        dataset: str | Path | Dataset,
        hyperparameters: Mapping[str, Any] | None = None,
        *,
        validation: str | Path | None = None,
        method: str | None = None,
        suffix: str | None = None,
        seed: int | None = None,
        priority: str | None = None,
        metadata: Mapping[str, str] | None = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._backend = backend or open_backend()
        self._id: str | None = None
        self._wanted = JobRequest(
            model=model,
            dataset=_path(dataset),
            validation=str(validation) if validation is not None else None,
            hyperparameters=dict(hyperparameters or {}),
            method=method,
            suffix=suffix,
            seed=seed,
            priority=priority,
            metadata=dict(metadata) if metadata else None,
            config={name: dict(fields) for name, fields in config.items()} if config else None,
        )

    @classmethod
    def attach(cls, job_id: str, *, backend: Backend | None = None) -> FineTuningJob:
        """A job that was started before, by its id or its name.

        Raises:
            NotFoundError: There is none.
        """
        backend = backend or open_backend()
        known = backend.get(job_id)
        job = cls(known.model, known.training_file or "", known.hyperparameters, backend=backend)
        job._id = known.id
        return job

    @property
    def id(self) -> str:
        """The job's id.

        Raises:
            JobNotStartedError: It has none yet.
        """
        if self._id is None:
            raise JobNotStartedError("the job has not been started", hint="Call start() first.")
        return self._id

    def start(self) -> str:
        """Starts the job and returns its id at once; called again, it starts no second one.

        Raises:
            InputError: Something that the job is told is wrong.
            UnavailableError: The API does not answer.
        """
        if self._id is None:
            self._id = self._backend.create(self._wanted).id
        return self._id

    def get_status(self) -> JobStatus:
        """How the job is now."""
        return self._backend.get(self.id).brief()

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Waits until the job has ended or is paused.

        Args:
            timeout: The seconds to wait at most; then, the job is as it is.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._backend.get(self.id)
            if found.at_rest or (deadline is not None and time.monotonic() > deadline):
                return found.brief()
            time.sleep(self._backend.poll_seconds)

    def cancel(self) -> bool:
        """Ends the job; what it has done is kept.

        Returns:
            Whether it is cancelled, or will be within the next half minute.

        Raises:
            ConflictError: It has ended already.
        """
        status = self._backend.ask(Verb.CANCEL, self.id).status
        return status not in (Status.SUCCEEDED, Status.FAILED)

    def pause(self) -> JobStatus:
        """Has the job save a checkpoint and end its process; it is paused soon after."""
        return self._backend.ask(Verb.PAUSE, self.id).brief()

    def resume(self) -> JobStatus:
        """Has a paused job go on from its checkpoint."""
        return self._backend.ask(Verb.RESUME, self.id).brief()

    def checkpoint(self) -> JobStatus:
        """Has the running job save a checkpoint, and go on."""
        return self._backend.ask(Verb.CHECKPOINT, self.id).brief()

    def get_metrics(self) -> dict[str, Any]:
        """The last value of each metric; `evaluation` too, tuned and base, once there is one."""
        return backends.latest_metrics(self._backend, self.id)

    def get_model(self) -> str:
        """The model that the job has made: its id over the API, its folder on this machine.

        Raises:
            ConflictError: It has made none.
        """
        return self._backend.model(self.id)

    def events(self, *, follow: bool = False) -> Iterator[JobEvent]:
        """What has happened, in order.

        Args:
            follow: Go on with what happens, until the job has ended or is paused.
        """
        if follow:
            return backends.follow(self._backend, self.id)
        return iter(backends.in_order(self._backend, self.id))


def _path(dataset: str | Path | Dataset) -> str:
    """The path of a dataset; rows in memory are written to a file that their content names."""
    if isinstance(dataset, str | Path):
        return str(dataset)
    folder = organization_folder("local") / "datasets"
    folder.mkdir(exist_ok=True)
    written = folder / f"{uuid.uuid4().hex}.jsonl"
    dataset.save(written)
    return str(written.rename(folder / f"{digest_file(written)}.jsonl"))
