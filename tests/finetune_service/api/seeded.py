"""A store with something of everything in it, written as the service and the flow write it."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from finetune_core.child import EventFile
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.job_events import JobEvents
from finetune_core.storage import publish
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.types import new_job_id
from finetune_service.jobs.progress import training_events
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.store import JobStore
from tests.conftest import ROOT

STEP = 4


def finished_job(
    home: Path, organization: str, status: str = "succeeded", *, registered: bool = False
) -> JobRecord:
    """A job that has ended, with events, a checkpoint, and a model where it succeeded."""
    store = JobStore(home)
    record = JobRecord(
        id=new_job_id(),
        name="orders",
        organization=organization,
        created_at=int(time.time()),
        model="tiny",
        flow_run_id=str(uuid.uuid4()),
        deployment="finetune/cpu",
        training_file=f"file-{'0' * 24}",
        method={"type": "lora", "lora": {"hyperparameters": {"n_epochs": 1}}},
        hyperparameters={"n_epochs": 1, "batch_size": 16, "learning_rate_multiplier": 1.0},
        suffix="orders",
        seed=42,
        metadata={"team": "blue"},
    )
    data = ROOT / "examples" / "data" / "train.jsonl"
    config = {"model": {"name": "tiny"}, "dataset": {"path": str(data)}}
    store.add(record, PipelineConfig.parse(config))
    job = store.job(record)
    JobEvents(job).say("created", f"Created fine-tuning job: {record.id}")
    training = training_events(job.folder)
    training.parent.mkdir()
    for step in range(1, STEP + 1):
        event = {"type": "step", "step": step, "total_steps": STEP, "train_loss": 1 / step}
        EventFile(training).append(event)
        JobEvents(job).hear(event)
    checkpoints = Checkpoints(job.folder / "checkpoints")
    for folder in (checkpoints.staging / "written", job.folder / "written"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    checkpoints.publish(checkpoints.staging / "written", step=STEP, epoch=1.0, valid_loss=0.5)
    if status == "succeeded":
        publish(job.folder / "written", job.folder / "package")
    error = {"code": "error", "message": "The process was ended by SIGKILL."}
    outcome = {
        "status": status,
        "finished_at": time.time(),
        "error": error if status == "failed" else None,
        "trained_tokens": 61_440,
        "registered": {"model_name": "orders", "version": 1} if registered else None,
    }
    store.finish(record, Outcome.model_validate(outcome))
    return record
