"""What the SDK tells: frozen records, the same over the API and on this machine."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finetune_service.jobs.priority import Priority
from finetune_service.jobs.states import FINAL, Status

AT_REST = FINAL | {Status.PAUSED}
"""Where nothing happens by itself any more."""


class _Told(BaseModel):
    """Read leniently: a newer API may tell more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JobStatus(_Told):
    """How a job is.

    Attributes:
        job_id: The job.
        status: Its state, by the API's name.
        progress: How much of its training is done, in per cent.
        created_at: When it was created.
        updated_at: When something was last heard of it.
        error: Why it failed.
    """

    job_id: str
    status: Status
    progress: float
    created_at: datetime
    updated_at: datetime
    error: str | None = None


class JobInfo(_Told):
    """All that is known of a job beside its events.

    Attributes:
        name: What it is called; the model that it makes has the same name in the hub.
        model: The base model, as it was asked for.
        training_file: A file's id over the API, a path on this machine.
        progress: In per cent.
    """

    id: str
    name: str
    model: str
    status: Status
    progress: float
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    training_file: str | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    queue_position: int | None = None
    priority: Priority = Priority.NORMAL
    metadata: dict[str, str] | None = None

    @property
    def at_rest(self) -> bool:
        """Whether it has ended, or waits until somebody has it go on."""
        return self.status in AT_REST

    def brief(self) -> JobStatus:
        """How it is."""
        return JobStatus(
            job_id=self.id,
            status=self.status,
            progress=self.progress,
            created_at=self.created_at,
            updated_at=self.updated_at,
            error=self.error,
        )


class JobEvent(_Told):
    """One thing that has happened to a job.

    Attributes:
        type: `message` or `metrics`.
        name: What happened, for programs; `message` says it to people.
        data: What was measured.
    """

    id: str
    time: datetime
    level: str
    type: str
    name: str
    message: str
    data: dict[str, Any]


class FileInfo(_Told):
    """A file that was uploaded."""

    id: str
    filename: str
    bytes: int
    purpose: str
    status: str
    status_details: str | None = None
    created_at: int


class ModelInfo(_Told):
    """A model that jobs may begin from, or have made."""

    id: str
    created: int
    owned_by: str


def moment(seconds: float) -> datetime:
    """A time in seconds since 1970 as one that knows its zone."""
    return datetime.fromtimestamp(seconds, timezone.utc)
