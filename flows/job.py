"""A job around its stages: opened before the first, its run closed after the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from finetune_core.config import PipelineConfig
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.jobs import open_job
from finetune_core.types import Job


@contextmanager
def running_job(config: PipelineConfig, organization: str, job_id: str | None) -> Iterator[Job]:
    """Opens a job, and closes its run as it ends: finished, failed or killed."""
    job = open_job(config, organization, job_id=job_id)
    tracking = Tracking(open_hub(organization), job)
    tracking.tell_config(config)
    try:
        yield job
    except Exception:
        tracking.end("FAILED")
        raise
    except BaseException:
        tracking.end("KILLED")
        raise
    tracking.end("FINISHED")
