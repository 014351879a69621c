"""The task that takes the best checkpoint."""

from prefect import task

from finetune_core.trainers.checkpoints import choose
from finetune_core.types import ChosenCheckpoint, Job, TrainedCheckpoints
from tasks.stage import STAGE, run_stage


@task(name="checkpoint", **STAGE)
def choose_checkpoint(job: Job, trained: TrainedCheckpoints) -> ChosenCheckpoint:
    """Checkpoints → the adapter that goes on."""
    return run_stage(
        job,
        "checkpoint",
        lambda _: choose(trained, job.folder / "adapter"),
        lambda chosen: f"step {chosen.step}, {chosen.reason} ({chosen.valid_loss:.4f})",
    )
