"""Backend: where jobs run. Over the API where FINETUNE_API_URL says where it is, else here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Protocol

from finetune_core.hub.lineage import Lineage
from finetune_core.hub.verification import Verification
from finetune_service.hub import AdapterRecord, ModelRecord
from finetune_service.hub.versions import (
    HistoryEntry,
    TreeNode,
    VersionComparison,
    VersionRecord,
)
from finetune_service.jobs.states import Verb
from finetune_service.sdk.records import JobEvent, JobInfo
from finetune_service.sdk.request import JobRequest
from finetune_service.sdk.settings import SdkSettings

RECENT = 1000  # the events in which the last of each metric is looked for


class Backend(Protocol):
    """What can be asked of jobs, wherever they run. A job goes by its id or by its name."""

    poll_seconds: float
    """How often it is worth asking what is new."""

    def create(self, wanted: JobRequest) -> JobInfo:
        """Makes a job and has it begin; does not wait for it."""

    def list(self, limit: int) -> list[JobInfo]:
        """The newest jobs first."""

    def get(self, name: str) -> JobInfo:
        """A job as it is now."""

    def ask(self, verb: Verb, name: str) -> JobInfo:
        """Cancels, pauses, resumes a job, or has it save a checkpoint."""

    def events(self, name: str) -> Iterator[JobEvent]:
        """A job's events, the newest first, read only as far as they are taken."""

    def model(self, name: str) -> str:
        """What the model that a job has made is called, or where it is."""

    def logs(self, name: str) -> Iterator[str]:
        """What a job's processes have written, line by line."""


class Registry(Protocol):
    """What can be asked of the hub; `finetune_service.hub.Catalog` is one."""

    def models(self, after: str | None = None) -> Iterator[ModelRecord]:
        """Whole models, the newest first."""

    def model(self, name: str) -> ModelRecord:
        """A whole model."""

    def adapters(self, after: str | None = None) -> Iterator[AdapterRecord]:
        """Adapters, the newest first."""

    def adapter(self, name: str) -> AdapterRecord:
        """An adapter."""

    def delete_model(self, name: str, *, force: bool = False) -> ModelRecord:
        """Deletes a whole model."""

    def delete_adapter(self, name: str, *, force: bool = False) -> AdapterRecord:
        """Deletes an adapter."""


class VersionRegistry(Protocol):
    """What can be done with registered versions; `finetune_service.hub.Versions` is one."""

    def promote(self, ref: str) -> VersionRecord:
        """Makes a version the champion."""

    def rollback(self, model_name: str) -> VersionRecord:
        """Makes the champion before this one the champion again."""

    def history(self, model_name: str) -> list[HistoryEntry]:
        """What happened to a model's versions, the last thing first."""

    def undelete(self, ref: str) -> VersionRecord:
        """Brings a deleted version back."""

    def purge(self, ref: str) -> None:
        """Forgets a deleted version for good."""

    def compare(self, first: str, second: str) -> VersionComparison:
        """Two versions beside each other."""

    def tree(self) -> list[TreeNode]:
        """The bases, and what was made of each."""

    def card(self, ref: str) -> Lineage:
        """A version's lineage card."""

    def verify(self, ref: str) -> Verification:
        """Recomputes every digest of a version's card."""

    def download(self, ref: str, output: Path) -> Path:
        """Fetches a version's files."""


def open_backend(organization: str = "local") -> Backend:
    """Where jobs run, as the environment says.

    Args:
        organization: Whose jobs, on this machine; over the API, the key says so.
    """
    settings = SdkSettings()
    if settings.api_url:
        from finetune_service.sdk.api import ApiBackend
        from finetune_service.sdk.client import Client

        return ApiBackend(Client(settings.api_url, settings.api_key))
    from finetune_service.sdk.local import LocalBackend

    return LocalBackend(organization, settings)


def open_registry(organization: str = "local") -> Registry:
    """The hub, as the environment says; raises and chooses as `open_backend`."""
    settings = SdkSettings()
    if settings.api_url:
        from finetune_service.sdk.client import Client

        return Client(settings.api_url, settings.api_key).hub
    from finetune_core.hub import open_hub
    from finetune_service.hub import Catalog

    return Catalog(open_hub(organization, settings))


def open_versions(organization: str = "local") -> VersionRegistry:
    """The hub's versions, as the environment says; raises and chooses as `open_backend`."""
    settings = SdkSettings()
    if settings.api_url:
        from finetune_service.sdk.client import Client

        return Client(settings.api_url, settings.api_key).hub.versions
    from finetune_core.hub import open_hub
    from finetune_service.hub import Versions

    return Versions(open_hub(organization, settings))


def follow(backend: Backend, job_id: str) -> Iterator[JobEvent]:
    """A job's events in order, as they happen, until it has ended or is paused."""
    last: str | None = None
    while True:
        # Asked first, so that what a job says at its end is still read.
        rests = backend.get(job_id).at_rest
        for event in in_order(backend, job_id, after=last):
            last = event.id
            yield event
        if rests:
            return
        time.sleep(backend.poll_seconds)


def in_order(backend: Backend, job_id: str, *, after: str | None = None) -> list[JobEvent]:
    """A job's events, the oldest first, from behind one of them on."""
    return [*takewhile(lambda event: event.id != after, backend.events(job_id))][::-1]


def latest_metrics(backend: Backend, job_id: str) -> dict[str, Any]:
    """The last value of each metric of the training; once it has ended, `evaluation` as well."""
    found: dict[str, Any] = {}
    for event in islice(backend.events(job_id), RECENT):
        if event.type == "metrics":
            found = {**event.data, **found}
        elif event.name == "stage_ended" and event.data.get("stage") == "evaluate":
            report = {name: event.data[name] for name in ("tuned", "base") if name in event.data}
            found.setdefault("evaluation", report)
    return found
