"""OpenaiModel: jobs of OpenAI's, or of any server that speaks its protocol."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from finetune_core.child import EventFile, files
from finetune_core.exceptions import DatasetFormatError, HubError, JobInUseError
from finetune_core.hub import open_hub
from finetune_core.storage import digest_file
from finetune_service.exceptions import UnavailableError
from finetune_service.jobs.providers import results, tokens
from finetune_service.jobs.providers.asking import Asking
from finetune_service.jobs.providers.base import Finetuning, FinetuningDataset, FinetuningModel
from finetune_service.jobs.providers.storage import (
    FinetuningStorage,
    is_text_to_sql,
    plain_dataset,
)
from finetune_service.jobs.states import FINAL, Status, Verb, check
from finetune_service.sdk.exceptions import ApiError

PURPOSE: Final = "fine-tune"
MARK = "finetuning"  # the job's metadata that holds the fine-tuning's id
NEWEST = 100  # the files and jobs among which one that was made already is looked for
POLL_SECONDS = 2.0
PROCESSED_SECONDS = 1800.0  # in which an uploaded file must be looked through

log = logging.getLogger(__name__)


class OpenaiModel(FinetuningModel):
    """A fine-tuning elsewhere.

    Args:
        storage: The fine-tuning's folder.
        sleep: Waits.
    """

    def __init__(
        self, storage: FinetuningStorage, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._storage = storage
        self._sleep = sleep

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """By the tokenizer that the request names, or else by OpenAI's rule.

        Raises:
            InputError: The model's encoding is not known, or cannot be had.
        """
        request = self._storage.request
        if request.tokenizer:
            folder = Path(request.tokenizer).expanduser()
            return tokens.by_template(folder, request.config.tokenization, messages)
        return tokens.by_tiktoken(request.config.model.name, messages)

    def create_finetuning_dataset(self) -> FinetuningDataset:
        """Builds the files of questions and SQL; what is no text to SQL is taken as it is."""
        config = self._storage.request.config
        if not is_text_to_sql(config):
            return plain_dataset(config)
        from finetune_core.text_to_sql.dataset import build_dataset

        self._storage.logs.mkdir(exist_ok=True)
        events = EventFile(files(self._storage.logs, "build").events)
        built = build_dataset(config, self.count_tokens, self._storage.dataset, events.append)
        return FinetuningDataset(
            train=built.train, validation=built.validation, config=built.config(config)
        )

    def create_fine_tuning_job(self) -> Finetuning:
        """Uploads the files, waits until the server has looked through them, and creates the job.

        Raises:
            ApiKeyError: OPENAI_API_KEY is not set, or the server does not know it.
            DatasetFormatError: The server refuses a file; it says which row is wrong.
            FineTuneError: What else the server answers, or that it does not.
        """
        storage = self._storage
        with storage.locked(), self._asking() as ask:
            known = storage.read()
            if known.job_id or known.status in FINAL:
                return known
            dataset = self.create_finetuning_dataset()
            given = {"file_id": dataset.train, "validation_file_id": dataset.validation}
            paths = {field: path for field, path in given.items() if path is not None}
            for field, path in paths.items():
                self._upload(ask, field, path)
            known = storage.read()
            for field, path in paths.items():
                self._await_processed(ask, getattr(known, field), path)
            job = ask(
                lambda api: api.fine_tuning.jobs.create(**self._body(known)),
                FineTuningJob,
                known=lambda: self._find_job(ask),
            )
            return self._learn(ask, job)

    def retrieve_finetuning_job(self) -> Finetuning:
        """How it is now; once it has succeeded, its metrics go to MLflow.

        Raises:
            FineTuneError: What the server answers, or that it does not.
        """
        known = self._storage.read()
        if known.job_id is None or (known.status in FINAL and self._is_told(known)):
            return known
        with self._asking() as ask:
            job = self._retrieve(ask, known.job_id)
            found = self._learn(ask, job)
            if self._is_told(found):
                return found
            try:
                return self._tell(ask, job)
            except JobInUseError:  # by another process, which tells
                return found

    def cancel_finetuning_job(self) -> Finetuning:
        """Cancels the job, also one of which it was not written down that it was created.

        Raises:
            ConflictError: It has ended otherwise.
            FineTuneError: What the server answers, or that it does not.
        """
        storage = self._storage
        with storage.locked():
            known = storage.read()
            if known.status in FINAL:
                check(Verb.CANCEL, known.status, known.id)
                return known
            with self._asking() as ask:
                job = self._retrieve(ask, known.job_id) if known.job_id else self._find_job(ask)
                if job is None:
                    return storage.change(status=Status.CANCELLED, finished_at=int(time.time()))
                found, job_id = self._learn(ask, job), job.id
                if not check(Verb.CANCEL, found.status, found.id):
                    return found
                cancelled = ask(
                    lambda api: api.fine_tuning.jobs.cancel(job_id),
                    FineTuningJob,
                    known=lambda: self._find_cancelled(ask, job_id),
                )
                return self._learn(ask, cancelled)

    def _asking(self) -> Asking:
        return Asking(self._storage.request.base_url, sleep=self._sleep)

    def _body(self, known: Finetuning) -> dict[str, Any]:
        """The request for the job."""
        request = self._storage.request
        training = request.config.training
        if training.learning_rate != "auto":
            log.warning(
                "%s: learning_rate %g is not sent: OpenAI knows only a multiplier of a rate of "
                "its own",
                known.id,
                training.learning_rate,
            )
        hyperparameters = {"n_epochs": training.epochs, "batch_size": training.batch_size}
        body = {
            "model": known.base_model,
            "training_file": known.file_id,
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            "seed": training.seed,
            "metadata": {MARK: known.id},
            # For servers that know it; OpenAI's has the metadata alone, by which a job is found.
            "extra_headers": {"Idempotency-Key": known.id},
            "extra_body": request.extra_body or None,
        }
        given = {"validation_file": known.validation_file_id, "suffix": request.suffix}
        return {**body, **{name: value for name, value in given.items() if value is not None}}

    def _upload(self, ask: Asking, field: str, path: Path) -> None:
        """Uploads a file, under a name by which it is found again; writes down its id."""
        known = self._storage.read()
        if getattr(known, field) is not None:
            return
        part = field.removesuffix("file_id").rstrip("_") or "training"  # both may hold the same
        name = f"{known.id}-{part}-{digest_file(path)[:12]}{''.join(path.suffixes)}"

        def uploaded() -> FileObject | None:
            newest = ask(
                lambda api: api.files.list(purpose=PURPOSE, order="desc", limit=NEWEST).data, list
            )
            return next((each for each in newest if each.filename == name), None)

        file = ask(
            lambda api: api.files.create(file=(name, path), purpose=PURPOSE),
            FileObject,
            known=uploaded,
        )
        self._storage.change(**{field: file.id})

    def _await_processed(self, ask: Asking, file_id: str, path: Path) -> None:
        """Waits until the server has looked through a file.

        Raises:
            DatasetFormatError: It refuses the file.
            UnavailableError: It takes too long.
        """
        deadline = time.monotonic() + PROCESSED_SECONDS
        while True:
            file = ask(lambda api: api.files.retrieve(file_id), FileObject)
            if file.status != "uploaded":
                break
            if time.monotonic() > deadline:
                minutes = PROCESSED_SECONDS / 60
                problem = f"{ask.url} has not looked through {path} in {minutes:g} min"
                raise UnavailableError(problem, hint="Create the job again: it goes on from there.")
            self._sleep(POLL_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311
        if file.status == "error":
            why = ask.clean(file.status_details or "it does not say why")
            # The server knows the file by the name that it was given for it.
            problem = f"{ask.url} refuses {path}: {why.replace(file.filename, path.name)}"
            self._storage.change(status=Status.FAILED, error=problem, finished_at=int(time.time()))
            raise DatasetFormatError(problem, hint="Mend the file, and begin a new fine-tuning.")

    def _find_job(self, ask: Asking) -> FineTuningJob | None:
        """The job that was created, perhaps by a process that could not write that down."""
        mark = {MARK: self._storage.folder.name}
        newest = ask(lambda api: api.fine_tuning.jobs.list(metadata=mark, limit=NEWEST).data, list)
        # A server may take no notice of the metadata that it is asked for.
        found = [each for each in newest if (each.metadata or {}).get(MARK) == mark[MARK]]
        return found[-1] if found else None

    def _find_cancelled(self, ask: Asking, job_id: str) -> FineTuningJob | None:
        """The job, where it is cancelled already: OpenAI refuses to do that again."""
        job = self._retrieve(ask, job_id)
        return job if job.status == Status.CANCELLED.value else None

    def _retrieve(self, ask: Asking, job_id: str) -> FineTuningJob:
        return ask(lambda api: api.fine_tuning.jobs.retrieve(job_id), FineTuningJob)

    def _learn(self, ask: Asking, job: FineTuningJob) -> Finetuning:
        """Writes down what the server says of its job."""
        try:
            status = Status(job.status)
        except ValueError:
            problem = f"{ask.url} says that {job.id} is {job.status}, and nobody knows what that is"
            raise ApiError(problem) from None
        error = None
        if status is Status.FAILED:
            error = "The server does not say why."
            if job.error and job.error.message:
                code = f" ({job.error.code})" if job.error.code else ""
                error = ask.clean(f"{job.error.message}{code}")
        return self._storage.change(
            status=status,
            job_id=job.id,
            fine_tuned_model=job.fine_tuned_model,
            trained_tokens=job.trained_tokens,
            error=error,
            finished_at=job.finished_at,
        )

    def _is_told(self, found: Finetuning) -> bool:
        """Whether there is nothing that MLflow is still to be told."""
        return found.status is not Status.SUCCEEDED or found.run_id is not None

    def _tell(self, ask: Asking, job: FineTuningJob) -> Finetuning:
        """Fetches a finished job's metrics, and tells MLflow, now or when it is there again."""
        storage = self._storage
        with storage.locked():
            found = storage.read()
            if self._is_told(found):
                return found
            if not storage.results.exists():
                if not job.result_files:
                    log.warning("%s: %s has no result file yet", found.id, job.id)
                    return found
                self._download(ask, job.result_files[0])
            rows = results.read_results(storage.results.read_bytes())
            found = storage.change(metrics=results.last_values(rows))
            try:
                run_id = results.tell(open_hub(found.organization), found, storage.results)
            except HubError as error:
                log.warning("%s is not tracked for now: %s", found.id, error)
                return found
            return storage.change(run_id=run_id)

    def _download(self, ask: Asking, file_id: str) -> None:
        content = ask(lambda api: api.files.content(file_id).read(), bytes)
        temporary = self._storage.results.with_suffix(".part")
        temporary.write_bytes(results.plain(content))
        temporary.replace(self._storage.results)
