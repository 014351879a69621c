"""The task that trains the model, in a child process that it supervises."""

from prefect import task

from finetune_core import child
from finetune_core.child import Event
from finetune_core.config import PipelineConfig
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.trainers.checkpoints import finished_training
from finetune_core.trainers.request import MEMORY, TrainRequest
from finetune_core.types import Job, TokenizedData, TrainedCheckpoints
from tasks.artifacts import ProgressArtifact
from tasks.stage import STAGE, run_stage, worth_a_retry
from tasks.terminal import Terminal


@task(
    name="train",
    retries=2,
    retry_delay_seconds=[2, 30],
    retry_condition_fn=worth_a_retry,
    **STAGE,
)
def train_model(job: Job, config: PipelineConfig, tokens: TokenizedData) -> TrainedCheckpoints:
    """Tokens → checkpoints; a retry goes on from the last whole one."""
    request = TrainRequest(
        tokens=tokens,
        model=config.model,
        training=config.training,
        lora=config.lora,
        output=job.folder / "checkpoints",
    )
    tracking = Tracking(open_hub(job.organization), job)

    def work(terminal: Terminal) -> TrainedCheckpoints:
        artifact = ProgressArtifact(job)

        def hear(event: Event) -> None:
            for observer in (terminal, artifact, tracking.tell_event):
                observer(event)

        with tracking.system_metrics():
            trained = child.run(
                "finetune_core.trainers.engine:train",
                request,
                TrainedCheckpoints,
                folder=job.logs,
                on_event=hear,
                environment=MEMORY,
            )
        artifact.finished()
        return trained

    trained = run_stage(
        "train",
        lambda terminal: finished_training(request.output) or work(terminal),
        lambda trained: (
            f"{trained.steps:,} steps, {trained.trained_tokens:,} tokens, "
            f"loss {trained.train_loss:.4f}"
        ),
    )
    tracking.tell_training(trained)
    return trained
