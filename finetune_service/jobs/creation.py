"""Creation: makes a job of a request; nobody is told of it yet."""

from __future__ import annotations

import time
from typing import Any

from finetune_core.storage import digest_json
from finetune_core.types import new_job_id
from finetune_service.exceptions import InvalidValueError, NotFoundError
from finetune_service.files import FileRecord, FileStore
from finetune_service.files.records import FINE_TUNE
from finetune_service.jobs.base_models import BaseModels
from finetune_service.jobs.record import JobRecord
from finetune_service.jobs.request import NewJob, build_config, gate_files, resolved
from finetune_service.jobs.store import JobStore

KEY = "Idempotency-Key"
KEY_LENGTH = 255
CONFIG_BYTES = 400_000  # Prefect takes 512 KB of parameters


class UnknownFileError(NotFoundError):
    """A request names a file that is not there, or another organisation's.

    Args:
        message: What was wrong.
        param: The field.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class Creation:
    """Makes the jobs of one organisation.

    Args:
        store: Where they are made.
        files: What they may learn from.
        base_models: What they may begin from.
        organization: Whose.
    """

    def __init__(
        self, store: JobStore, files: FileStore, base_models: BaseModels, organization: str
    ) -> None:
        self._store, self._files, self._base_models = store, files, base_models
        self._organization = organization

    def make(
        self, wanted: NewJob, deployment: str, idempotency_key: str | None
    ) -> tuple[JobRecord, bool]:
        """Makes a job's folder, with all that its flow needs.

        Args:
            wanted: The request.
            deployment: Whose flow it is to be.
            idempotency_key: Tells a request that is made once more.

        Returns:
            The job, and whether it is new.

        Raises:
            InvalidValueError: Something in the request is wrong.
            NotFoundError: A file is not there.
        """
        said = wanted.model_dump()
        check_text(said)
        base = self._base_models.find(wanted.model)
        digest = digest_json(said)
        with self._files.lock(self._organization):  # so that no file is deleted meanwhile
            job_id = new_job_id()
            if idempotency_key is not None:
                job_id = self._job_of(idempotency_key, job_id, digest)
                if known := self._store.get(self._organization, job_id):
                    return known, False
            training = self._file("training_file", wanted.training_file)
            validation = None
            if wanted.validation_file is not None:
                validation = self._file("validation_file", wanted.validation_file)
            gate = {
                name: self._file(f"config.registry.gate.{name}", file_id)
                for name, file_id in gate_files(wanted).items()
            }
            config = build_config(
                wanted,
                base=base,
                training=self._path(training),
                validation=self._path(validation) if validation else None,
                gate={name: self._path(each) for name, each in gate.items()},
            )
            if len(config.model_dump_json()) > CONFIG_BYTES:
                raise InvalidValueError("config: is too large", param="config")
            record = JobRecord(
                id=job_id,
                name=str(config.registry.model_name),
                organization=self._organization,
                created_at=int(time.time()),
                deployment=deployment,
                model=wanted.model,
                training_file=training.id,
                validation_file=validation.id if validation else None,
                gate_files=tuple(each.id for each in gate.values()),
                method=_method(wanted),
                hyperparameters=resolved(wanted, config),
                suffix=wanted.suffix,
                seed=config.training.seed,
                priority=wanted.priority,
                metadata=wanted.metadata,
                idempotency_key=idempotency_key,
            )
            self._store.add(record, config)
        return record, True

    def _job_of(self, key: str, job_id: str, digest: str) -> str:
        """The job that an idempotency key stands for: it is the given one from now on, if new."""
        if not 0 < len(key) <= KEY_LENGTH:
            raise InvalidValueError(f"{KEY}: must have 1 to {KEY_LENGTH} characters", param=KEY)
        made = self._store.request(self._organization, key, job_id=job_id, request=digest)
        if made["request"] != digest:
            raise InvalidValueError(f"{KEY}: was used for another request", param=KEY)
        return str(made["job_id"])

    def _file(self, param: str, file_id: str) -> FileRecord:
        """A file that a job may learn from, or measure by."""
        try:
            record = self._files.get(self._organization, file_id)
        except NotFoundError as error:
            raise UnknownFileError(error.message, param=param) from None
        problem = None
        if record.purpose != FINE_TUNE:
            problem = f"has the purpose {record.purpose}, not {FINE_TUNE}"
        elif record.status == "error":
            problem = f"cannot be learned from: {record.status_details}"
        if problem:
            raise InvalidValueError(f"{param}: {file_id} {problem}", param=param)
        return record

    def _path(self, record: FileRecord) -> str:
        return str(self._files.local_path(self._organization, record))


def check_text(value: Any, field: str = "") -> None:
    """Refuses text that no file or database takes: lone surrogates and null characters.

    Raises:
        InvalidValueError: There is some.
    """
    if isinstance(value, str):
        if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
            raise InvalidValueError(f"{field}: holds a character that is none", param=field)
    elif isinstance(value, dict):
        for name, each in value.items():
            inner = f"{field}.{name}".lstrip(".").encode("ascii", "replace").decode()
            check_text(name, inner)
            check_text(each, inner)
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_text(each, field)


def _method(wanted: NewJob) -> dict[str, Any]:
    """The method in the contract's form, with what was asked of it."""
    asked = {name: value for _, name, value in wanted.settings() if name != "seed"}
    return {"type": wanted.method_type, wanted.method_type: {"hyperparameters": asked}}
