"""/fine_tuning: jobs, their events and their checkpoints."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, Field

from finetune_service.api.pagination import Page, page
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.fine_tuning import (
    CHECKPOINT_MODEL,
    Checkpoint,
    Event,
    Job,
    checkpoint_step,
    event_position,
)
from finetune_service.api.schemas.parameters import (
    METADATA,
    AfterCheckpoint,
    AfterEvent,
    AfterJob,
    IdempotencyKey,
    JobId,
    content,
)
from finetune_service.api.services import CurrentJobs
from finetune_service.exceptions import InvalidValueError, NotFoundError
from finetune_service.jobs import JobService, JobView, NewJob

LINES, MAX_LINES = 1_000, 10_000  # of a log that one answer holds

router = APIRouter(prefix="/fine_tuning", tags=["fine-tuning"])

Limit = Annotated[int, Query(ge=1, le=100)]


class Permission(Answer):
    """A project's leave to use a checkpoint, of which there is none here."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class NewPermissions(BaseModel):
    """The projects that shall use a checkpoint."""

    project_ids: Annotated[list[str], Field(min_length=1)]


@router.post("/jobs")
def create_job(wanted: NewJob, jobs: CurrentJobs, idempotency_key: IdempotencyKey = None) -> Job:
    """Create a job. The same Idempotency-Key again gives the same job."""
    return Job.of(jobs.create(wanted, idempotency_key=idempotency_key))


@router.get("/jobs", openapi_extra={"parameters": [METADATA]})
def list_jobs(
    request: Request, jobs: CurrentJobs, after: AfterJob = None, limit: Limit = 20
) -> Page[Job]:
    """List jobs, the newest first; `metadata[key]=value` leaves those that have the pair."""
    views = jobs.list(limit + 1, after=after, metadata=_metadata(request))
    return page(map(Job.of, views), limit)


@router.get("/jobs/{job_id}")
def get_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Look at a job, by its id or its name."""
    return _shown(jobs, jobs.get(job_id))


@router.delete("/jobs/{job_id}")
def delete_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Cancel a job."""
    return Job.of(jobs.cancel(job_id))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Cancel a job. A running one ends within 30 s."""
    return Job.of(jobs.cancel(job_id))


@router.post("/jobs/{job_id}/pause")
def pause_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Pause a job: it saves a checkpoint, and frees its device."""
    return Job.of(jobs.pause(job_id))


@router.post("/jobs/{job_id}/resume")
def resume_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Have a paused job go on from its checkpoint."""
    return _shown(jobs, jobs.resume(job_id))


@router.post("/jobs/{job_id}/checkpoint")
def checkpoint_job(job_id: JobId, jobs: CurrentJobs) -> Job:
    """Have a running job save a checkpoint now."""
    return Job.of(jobs.checkpoint_now(job_id))


@router.get("/jobs/{job_id}/events")
def list_events(
    job_id: JobId, jobs: CurrentJobs, after: AfterEvent = None, limit: Limit = 20
) -> Page[Event]:
    """List a job's events, the newest first."""
    record = jobs.find(job_id)
    before = event_position(record, after) if after is not None else None
    return page((Event.of(record, each) for each in jobs.events(record, before=before)), limit)


@router.get("/jobs/{job_id}/logs", response_class=Response, responses=content("text/plain"))
def get_logs(
    job_id: JobId,
    jobs: CurrentJobs,
    after: Annotated[int, Query(ge=0, le=10**9, description="Leave out so many lines.")] = 0,
    tail: Annotated[
        int, Query(ge=1, le=MAX_LINES, description="The last lines of what is left.")
    ] = LINES,
) -> Response:
    """Read what a job's processes have written, without where things lie on the server."""
    lines = islice(jobs.logs(jobs.find(job_id)), after, None)
    return PlainTextResponse("".join(f"{line}\n" for line in deque(lines, maxlen=tail)))


@router.get("/jobs/{job_id}/checkpoints")
def list_checkpoints(
    job_id: JobId, jobs: CurrentJobs, after: AfterCheckpoint = None, limit: Limit = 10
) -> Page[Checkpoint]:
    """List a job's checkpoints that are still there, the newest first."""
    record = jobs.find(job_id)
    before = checkpoint_step(record, after) if after is not None else None
    found = (
        Checkpoint.of(record, each)
        for each in jobs.checkpoints(record)
        if before is None or each.checkpoint.step < before
    )
    return page(found, limit)


@router.get("/checkpoints/{checkpoint:path}/permissions")
def list_permissions(checkpoint: str, jobs: CurrentJobs) -> Page[Permission]:
    """List who else may use a checkpoint: nobody, ever."""
    _check_checkpoint(jobs, checkpoint)
    return page([], 1)


@router.post("/checkpoints/{checkpoint:path}/permissions")
def create_permissions(
    checkpoint: str, wanted: NewPermissions, jobs: CurrentJobs
) -> Page[Permission]:
    """Refused: a checkpoint is its organisation's, and there are no projects to share it with."""
    _check_checkpoint(jobs, checkpoint)
    raise InvalidValueError(
        "project_ids: there are no projects here; a checkpoint is its organisation's alone.",
        param="project_ids",
    )


@router.delete("/checkpoints/{checkpoint:path}/permissions/{permission_id}")
def delete_permission(checkpoint: str, permission_id: str, jobs: CurrentJobs) -> Permission:
    """Not found: there are no permissions."""
    _check_checkpoint(jobs, checkpoint)
    raise NotFoundError(f"No such permission: {permission_id}")


def _shown(jobs: JobService, view: JobView) -> Job:
    return Job.of(view, queue_position=jobs.queue_position(view))


def _metadata(request: Request) -> dict[str, str] | None:
    """The pairs of `metadata[key]=value`; `metadata=null` asks for jobs that have none."""
    query = request.query_params
    found = {
        name[len("metadata[") : -1]: value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    match query.get("metadata"):
        case None:
            return found or None
        case "null" if not found:
            return {}
    raise InvalidValueError(
        "metadata: must be metadata[key]=value, or null alone", param="metadata"
    )


def _check_checkpoint(jobs: JobService, name: str) -> None:
    """Finds a checkpoint by its model's id.

    Raises:
        NotFoundError: There is none.
    """
    found = CHECKPOINT_MODEL.fullmatch(name)
    record = jobs.find_model(found[1]) if found else None
    steps = (each.checkpoint.step for each in jobs.checkpoints(record)) if record else ()
    if not found or int(found[2]) not in steps:
        raise NotFoundError(f"No such checkpoint: {name}")
