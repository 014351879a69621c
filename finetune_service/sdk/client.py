"""Client: the REST API, a noun an attribute."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from finetune_core.data.loading import find_files
from finetune_core.exceptions import DatasetFormatError
from finetune_service.hub import AdapterRecord, ModelRecord
from finetune_service.jobs.states import Verb
from finetune_service.sdk.exceptions import ApiError
from finetune_service.sdk.records import FileInfo, JobEvent, JobInfo, ModelInfo, moment
from finetune_service.sdk.settings import SdkSettings
from finetune_service.sdk.transport import Transport, part
from finetune_service.sdk.versions import HubVersions

LOG_LINES = 10_000


class Client(AbstractContextManager["Client"]):
    """The API of one organisation: its `jobs`, `files`, `models` and `hub`.

    Args:
        url: Where the API is; from FINETUNE_API_URL where not given.
        key: The organisation's key; from FINETUNE_API_KEY where not given.
        transport: How the requests travel, where not over the network.
        sleep: Waits between two tries.

    Raises:
        ApiError: Nobody says where the API is.
        ApiKeyError: There is no key.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | SecretStr | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = SdkSettings()
        url, key = url or settings.api_url, key or settings.api_key
        if not url:
            raise ApiError("nobody says where the API is", hint="Set FINETUNE_API_URL.")
        secret = SecretStr(key) if isinstance(key, str) else key
        self.transport = Transport(url, secret, transport=transport, sleep=sleep)
        self.jobs = Jobs(self.transport)
        self.files = Files(self.transport)
        self.models = Models(self.transport)
        self.hub = Hub(self.transport)

    def health(self) -> dict[str, Any]:
        """Whether the API works, and what it depends on."""
        return self.transport.request("GET", "/health")

    def close(self) -> None:
        """Closes the connections."""
        self.transport.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class Jobs:
    """Fine-tuning jobs, each by its id or its name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, body: dict[str, Any]) -> JobInfo:
        """Creates a job; a try whose answer was lost leaves no second one behind.

        Args:
            body: As POST /fine_tuning/jobs takes it.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return _job(
            self._transport.request("POST", "/fine_tuning/jobs", json=body, headers=headers)
        )

    def list(self, limit: int | None = None) -> Iterator[JobInfo]:
        """The newest jobs first."""
        return map(_job, self._transport.pages("/fine_tuning/jobs", limit))

    def get(self, name: str) -> JobInfo:
        """A job as it is now."""
        return _job(self._transport.request("GET", _job_path(name)))

    def ask(self, verb: Verb, name: str) -> JobInfo:
        """Cancels, pauses, resumes a job, or has it save a checkpoint."""
        return _job(self._transport.request("POST", f"{_job_path(name)}/{verb.value}"))

    def events(self, name: str) -> Iterator[JobEvent]:
        """A job's events, the newest first."""
        return map(_event, self._transport.pages(f"{_job_path(name)}/events"))

    def logs(self, name: str, *, after: int = 0, tail: int = LOG_LINES) -> str:
        """The last lines of what a job's processes have written.

        Args:
            name: The job.
            after: Leave out so many lines.
            tail: How many lines at most.
        """
        return self._transport.text(f"{_job_path(name)}/logs", after=after, tail=tail)


class Files:
    """Uploaded files, each by its id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: str | Path) -> FileInfo:
        """Uploads a file to learn from.

        Raises:
            DatasetNotFoundError: It is not there.
            DatasetFormatError: It is a folder of several, or of a kind that nobody reads.
        """
        found = find_files(Path(path))
        if len(found) > 1:
            raise DatasetFormatError(f"{path} holds {len(found)} files, and one can be uploaded")
        with found[0].open("rb") as file:
            return FileInfo.model_validate(
                self._transport.request(
                    "POST",
                    "/files",
                    before_each_try=lambda: file.seek(0),
                    data={"purpose": "fine-tune"},
                    files={"file": (found[0].name, file)},
                )
            )

    def list(self, limit: int | None = None) -> Iterator[FileInfo]:
        """The newest files first."""
        return map(FileInfo.model_validate, self._transport.pages("/files", limit))

    def get(self, file_id: str) -> FileInfo:
        """A file as it is now."""
        return FileInfo.model_validate(self._transport.request("GET", f"/files/{part(file_id)}"))

    def delete(self, file_id: str) -> None:
        """Deletes a file, unless a job needs it."""
        self._transport.request("DELETE", f"/files/{part(file_id)}")


class Models:
    """The models that jobs may begin from or have made, each by its id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[ModelInfo]:
        """All of them."""
        found = self._transport.request("GET", "/models")
        return [ModelInfo.model_validate(each) for each in found["data"]]

    def get(self, model_id: str) -> ModelInfo:
        """One of them."""
        found = self._transport.request("GET", f"/models/{part(model_id)}")
        return ModelInfo.model_validate(found)

    def delete(self, model_id: str) -> None:
        """Deletes a model that a job has made."""
        self._transport.request("DELETE", f"/models/{part(model_id)}")


class Hub:
    """The registry, asked as `finetune_service.hub.Catalog` is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.versions = HubVersions(transport)

    def models(self, after: str | None = None) -> Iterator[ModelRecord]:
        """Whole models, the newest first, then the bases of everything."""
        return map(_model, self._transport.pages("/hub/models", after=after))

    def model(self, name: str) -> ModelRecord:
        """A whole model."""
        return _model(self._transport.request("GET", f"/hub/models/{part(name)}"))

    def adapters(self, after: str | None = None) -> Iterator[AdapterRecord]:
        """Adapters, the newest first."""
        return map(_adapter, self._transport.pages("/hub/adapters", after=after))

    def adapter(self, name: str) -> AdapterRecord:
        """An adapter."""
        return _adapter(self._transport.request("GET", f"/hub/adapters/{part(name)}"))

    def delete_model(self, name: str, *, force: bool = False) -> ModelRecord:
        """Deletes a whole model, unless an alias points there."""
        record = self.model(name)
        self._delete("models", name, force)
        return record

    def delete_adapter(self, name: str, *, force: bool = False) -> AdapterRecord:
        """Deletes an adapter, unless an alias points there."""
        record = self.adapter(name)
        self._delete("adapters", name, force)
        return record

    def _delete(self, kind: str, name: str, force: bool) -> None:
        path = f"/hub/{kind}/{part(name)}"
        self._transport.request("DELETE", path, params={"force": force})


def _job_path(name: str) -> str:
    return f"/fine_tuning/jobs/{part(name)}"


def _job(found: dict[str, Any]) -> JobInfo:
    times = {
        name: moment(found[name])
        for name in ("created_at", "updated_at", "finished_at")
        if found.get(name) is not None
    }
    error = found["error"]["message"] if found.get("error") else None
    share = round(100 * found["progress"], 1)
    return JobInfo.model_validate({**found, **times, "error": error, "progress": share})


def _event(found: dict[str, Any]) -> JobEvent:
    return JobEvent.model_validate({**found, "time": moment(found["created_at"])})


def _model(found: dict[str, Any]) -> ModelRecord:
    return ModelRecord(**{name: found[name] for name in ModelRecord.model_fields})


def _adapter(found: dict[str, Any]) -> AdapterRecord:
    return AdapterRecord(**{name: found[name] for name in AdapterRecord.model_fields})
