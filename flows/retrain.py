"""The retrain flow: the same config on the data as it is now, as a new job."""

from __future__ import annotations

from prefect import flow

from finetune_core.config import PipelineConfig
from finetune_core.hub.card import JobResult
from finetune_core.types import new_job_id
from flows.finetune import finetune


@flow(name="retrain")
def retrain(config: PipelineConfig, organization: str = "local") -> JobResult:
    """Fine-tunes anew, for a schedule to run: what the data's path leads to may have changed.

    Rows and tokens that are known are found in the organisation's cache; the training is not
    skipped where nothing has changed.

    Args:
        config: The base model, the data and how to train.
        organization: Whose job it is: its files, its runs and its models lie apart.

    Returns:
        The records of all stages of the new job, whose model is a new version of the same name.
    """
    return finetune(config, organization, new_job_id())
