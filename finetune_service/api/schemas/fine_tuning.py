"""Jobs, their events and their checkpoints, as the client knows them."""

from __future__ import annotations

import re
from typing import Any, Literal

from finetune_service.api.schemas.answer import Answer
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs import JobView, Status
from finetune_service.jobs.priority import Priority
from finetune_service.jobs.record import JobError, JobRecord
from finetune_service.jobs.views import JobCheckpoint, JobEvent

EVENT_ID = re.compile(r"ftevent-([0-9a-z]{24})-([0-9a-f]{1,16})")
CHECKPOINT_ID = re.compile(r"ftckpt-([0-9a-z]{24})-([0-9]{1,12})")
CHECKPOINT_MODEL = re.compile(r"(ft:.+):ckpt-step-([0-9]{1,12})")


class Job(Answer):
    """A job. `name`, `priority`, `progress`, `updated_at` and `queue_position` are ours."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    name: str
    created_at: int
    updated_at: int
    finished_at: int | None
    estimated_finish: int | None
    error: JobError | None
    fine_tuned_model: str | None
    hyperparameters: dict[str, Any]
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: dict[str, Any] | None
    model: str
    organization_id: str
    priority: Priority
    progress: float
    queue_position: int | None = None
    result_files: list[str]
    seed: int
    status: Status
    trained_tokens: int | None
    training_file: str | None
    validation_file: str | None

    @classmethod
    def of(cls, view: JobView, *, queue_position: int | None = None) -> Job:
        """What a view says.

        Args:
            view: The job as it is now.
            queue_position: Its place among those that wait.
        """
        record, outcome = view.record, view.outcome
        succeeded = view.status is Status.SUCCEEDED
        return cls(
            **record.model_dump(include=set(_SHARED)),
            organization_id=record.organization,
            status=view.status,
            updated_at=int(view.updated_at),
            finished_at=int(outcome.finished_at) if outcome else None,
            estimated_finish=view.estimated_finish,
            error=outcome.error if outcome else None,
            fine_tuned_model=record.fine_tuned_model if succeeded else None,
            progress=round(view.share, 4),
            queue_position=queue_position,
            result_files=list(view.result_files),
            trained_tokens=outcome.trained_tokens if outcome else None,
        )


_SHARED = Job.model_fields.keys() & JobRecord.model_fields.keys()


class Event(Answer):
    """One of a job's events. `name` is ours: what happened, for programs."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    name: str
    data: dict[str, Any]

    @classmethod
    def of(cls, record: JobRecord, event: JobEvent) -> Event:
        """What an event of a job says."""
        fields = event.fields
        return cls(
            id=f"ftevent-{_part(record)}-{event.position:x}",
            created_at=int(fields.get("time", 0)),
            level=fields.get("level", "info"),
            message=str(fields.get("message", "")),
            type=fields.get("type", "message"),
            name=str(fields.get("name", "")),
            data=fields.get("data") or {},
        )


class CheckpointMetrics(Answer):
    """What was measured at a checkpoint's step."""

    step: float
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class Checkpoint(Answer):
    """A checkpoint that is still there."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics

    @classmethod
    def of(cls, record: JobRecord, found: JobCheckpoint) -> Checkpoint:
        """What is known of a checkpoint; each validation is over all rows that were held out."""
        step, measured = found.checkpoint.step, found.metrics
        loss, accuracy = measured.get("valid_loss"), measured.get("valid_mean_token_accuracy")
        return cls(
            id=f"ftckpt-{_part(record)}-{step:08d}",
            created_at=int(found.created_at),
            fine_tuned_model_checkpoint=f"{record.fine_tuned_model}:ckpt-step-{step}",
            fine_tuning_job_id=record.id,
            step_number=step,
            metrics=CheckpointMetrics(
                step=step,
                train_loss=measured.get("train_loss"),
                train_mean_token_accuracy=measured.get("train_accuracy"),
                valid_loss=loss,
                valid_mean_token_accuracy=accuracy,
                full_valid_loss=loss,
                full_valid_mean_token_accuracy=accuracy,
            ),
        )


def event_position(record: JobRecord, event_id: str) -> int:
    """Where the event of an id begins.

    Raises:
        InvalidValueError: It is no event of that job.
    """
    found = EVENT_ID.fullmatch(event_id)
    if not found or found[1] != _part(record):
        raise InvalidValueError(f"No such event: {event_id}", param="after")
    return int(found[2], 16)


def checkpoint_step(record: JobRecord, checkpoint_id: str) -> int:
    """The step of the checkpoint of an id.

    Raises:
        InvalidValueError: It is no checkpoint of that job.
    """
    found = CHECKPOINT_ID.fullmatch(checkpoint_id)
    if not found or found[1] != _part(record):
        raise InvalidValueError(f"No such checkpoint: {checkpoint_id}", param="after")
    return int(found[2])


def _part(record: JobRecord) -> str:
    """The part of a job's id that stands in the ids of what belongs to it."""
    return record.id.partition("-")[2]
