"""What is done once when a job has ended: its outcome is written, and its result file made."""

from __future__ import annotations

import io
import json
import time

from filelock import FileLock

from finetune_core.job_events import JobEvents
from finetune_core.storage import write_json
from finetune_core.trainers.checkpoints import finished_training
from finetune_service.files import FileStore
from finetune_service.jobs.progress import results_table, step_metrics
from finetune_service.jobs.record import JobError, JobRecord, Outcome
from finetune_service.jobs.scheduler import RunState
from finetune_service.jobs.states import Status
from finetune_service.jobs.store import RESULTS, JobStore


def close(store: JobStore, record: JobRecord, state: RunState) -> Outcome:
    """Writes the outcome of a job whose flow has ended without writing it itself.

    Args:
        store: The jobs.
        record: The job.
        state: How Prefect says that its run ended.

    Returns:
        The outcome; the flow's own, where it has written one after all.
    """
    if known := store.outcome(record):
        return known
    error = None
    if state.status is Status.FAILED:
        message = state.message or "The job's process ended without a word."
        error = JobError(code="error", message=message)
    job = store.job(record)
    trained = finished_training(job.folder / "checkpoints")
    outcome = store.finish(
        record,
        Outcome(
            status=state.status,
            finished_at=state.since or time.time(),
            error=error,
            trained_tokens=trained.trained_tokens if trained else None,
        ),
    )
    events = JobEvents(job)
    if error:
        events.say("failed", error.message, level="error", error=error.model_dump())
    elif outcome.status is Status.CANCELLED:
        events.say("cancelled", "The job was cancelled.")
    else:
        events.say("succeeded", "The job has succeeded.")
    return outcome


def result_files(store: JobStore, files: FileStore, record: JobRecord) -> tuple[str, ...]:
    """The ids of a finished job's result files; who looks first makes them."""
    file = store.folder(record.organization, record.id) / RESULTS
    if not file.exists():
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                write_json(file, _make_results(store, files, record))
    return tuple(json.loads(file.read_bytes()))


def _make_results(store: JobStore, files: FileStore, record: JobRecord) -> list[str]:
    metrics = step_metrics(store.folder(record.organization, record.id))
    if not metrics:
        return []
    made = files.put(
        record.organization,
        io.BytesIO(results_table(metrics)),
        filename=f"{record.id}-metrics.csv",
        purpose="fine-tune-results",
    )
    return [made.id]
