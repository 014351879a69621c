"""The task that sanitizes the dataset."""

from prefect import get_run_logger, task

from finetune_core.child import Emit
from finetune_core.config import PipelineConfig
from finetune_core.data.sanitize import SanitizeRequest
from finetune_core.jobs import organization_folder
from finetune_core.trainers.methods import check_format
from finetune_core.types import CleanData, Job
from tasks.stage import STAGE, run_in_child, run_stage


@task(name="sanitize", **STAGE)
def sanitize_data(job: Job, config: PipelineConfig) -> CleanData:
    """Any file → clean rows, held-out rows apart, and the ledger of every row."""
    request = SanitizeRequest(
        dataset=config.dataset, cache=organization_folder(job.organization) / "cache" / "data"
    )

    def work(hear: Emit) -> CleanData:
        return run_in_child(
            "finetune_core.data.sanitize:sanitize",
            request,
            CleanData,
            final=request.folder,
            job=job,
            hear=hear,
        )

    clean = run_stage(job, "sanitize", work, _summary)
    check_format(config.training.method, clean.format)
    for warning in clean.warnings:
        get_run_logger().warning("%s", warning)
    return clean


def _summary(clean: CleanData) -> str:
    flagged = "".join(f", {n:,} flagged by {rule}" for rule, n in clean.flagged_by_rule.items())
    return (
        f"{clean.rows:,} rows ({clean.format}): {clean.train_rows:,} to learn from, "
        f"{clean.validation_rows:,} held out, {clean.changed:,} changed, "
        f"{clean.dropped:,} dropped{flagged}"
    )
