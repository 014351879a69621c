"""What is told of jobs: as they are now, their events, their checkpoints."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from finetune_core.trainers.checkpoints import Checkpoint
from finetune_core.types import Job
from finetune_service.jobs.progress import Progress, progress
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.states import WAITING, Status

UNTOLD = WAITING | {Status.SUCCEEDED}  # whose progress goes without saying


class JobView(NamedTuple):
    """A job as it is now.

    Attributes:
        heard_at: When its last event was, in seconds since 1970.
    """

    record: JobRecord
    status: Status
    outcome: Outcome | None
    progress: Progress | None
    heard_at: float | None
    result_files: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """How much of its training is done, from 0 to 1."""
        if self.status is Status.SUCCEEDED:
            return 1.0
        return self.progress.share if self.progress else 0.0

    @property
    def updated_at(self) -> float:
        """When something was last heard of it."""
        return max(self.record.created_at, self.heard_at or 0)

    @property
    def estimated_finish(self) -> int | None:
        """When its last step will be done; known while it trains."""
        if self.status is not Status.RUNNING or self.progress is None or not self.progress.ends:
            return None
        return int(max(self.progress.ends, time.time()))


def view_of(
    job: Job,
    record: JobRecord,
    status: Status,
    outcome: Outcome | None,
    result_files: tuple[str, ...] = (),
) -> JobView:
    """A job as its folder tells of it, in a state that somebody else knows."""
    try:
        heard_at = job.events.stat().st_mtime
    except FileNotFoundError:
        heard_at = None
    return JobView(
        record=record,
        status=status,
        outcome=outcome,
        progress=None if status in UNTOLD else progress(job.folder),
        heard_at=heard_at,
        result_files=result_files,
    )


class JobEvent(NamedTuple):
    """One of a job's events, with its place among them."""

    position: int
    fields: dict[str, Any]


class JobCheckpoint(NamedTuple):
    """One of a job's checkpoints, with what was measured at its step."""

    checkpoint: Checkpoint
    created_at: float
    metrics: dict[str, float | int]
