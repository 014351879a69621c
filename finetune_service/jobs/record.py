"""What is kept of a job in its folder, beside the engine's own files."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_service.jobs.priority import Priority
from finetune_service.jobs.states import Status

MODEL_PREFIX = "ft:"


class _Kept(BaseModel):
    """Read leniently: the flow writes these too, perhaps one of another version."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JobRecord(_Kept):
    """job.json: what a job was asked to be.

    A job that was started without the service, in Prefect's UI or a shell, knows less of itself,
    so most fields have a default.

    Attributes:
        model: The base model, as it was asked for.
        hyperparameters: In the contract's terms, `auto` resolved.
        flow_run_id: Prefect's run; none yet where Prefect has not been told of the job.
    """

    id: str
    name: str
    organization: str
    created_at: int
    model: str
    flow_run_id: str | None = None
    deployment: str | None = None
    training_file: str | None = None
    validation_file: str | None = None
    gate_files: tuple[str, ...] = ()
    method: dict[str, Any] | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    suffix: str | None = None
    seed: int = 0
    priority: Priority = Priority.NORMAL
    metadata: dict[str, str] | None = None
    integrations: list[dict[str, Any]] | None = None
    idempotency_key: str | None = None

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The uploaded files that the job reads."""
        files = self.training_file, self.validation_file, *self.gate_files
        return tuple(each for each in files if each is not None)

    @property
    def is_prefects(self) -> bool:
        """Whether it is a flow run of a deployment, rather than a process of this machine."""
        return bool(self.deployment or self.flow_run_id)

    @property
    def short(self) -> str:
        """The end of the id, which tells models of one base and suffix apart."""
        return self.id[-8:]

    @property
    def fine_tuned_model(self) -> str:
        """The model's id, once there is one."""
        suffix = slug(self.suffix or "")
        return f"{MODEL_PREFIX}{self.model}:{self.organization}:{suffix}:{self.short}"


class JobError(_Kept):
    """Why a job failed, in OpenAI's terms.

    Attributes:
        code: `user_error` where the same input fails again, else `error`; or something finer.
    """

    code: str
    message: str
    param: str | None = None


class Registered(_Kept):
    """The version that a job has registered."""

    model_name: str
    version: int
    aliases: tuple[str, ...] = ()
    uri: str | None = None
    run_id: str | None = None


class Outcome(_Kept):
    """outcome.json: how a job ended. It is written once, and never changes."""

    status: Literal[Status.SUCCEEDED, Status.FAILED, Status.CANCELLED]
    finished_at: float
    error: JobError | None = None
    registered: Registered | None = None
    trained_tokens: int | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)


def slug(text: str) -> str:
    """A text as part of a model's name: letters, digits, dots, dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
