"""The task that trains the model, in child processes that it supervises."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from finetune_core.child import Emit, Event
from finetune_core.config import PipelineConfig
from finetune_core.exceptions import JobHandedBackError, JobInterruptedError, JobPausedError
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.trainers.checkpoints import finished_training
from finetune_core.trainers.control import Control, Wish
from finetune_core.trainers.request import TrainRequest
from finetune_core.trainers.supervise import supervise
from finetune_core.types import Job, TokenizedData, TrainedCheckpoints
from tasks.artifacts import ProgressArtifact
from tasks.stage import STAGE, run_stage

# A training that stops, and is to go on, is no failure: a completed state by another name.
STOPPED: dict[str, type[JobInterruptedError]] = {
    "Paused": JobPausedError,
    "HandedBack": JobHandedBackError,
}


def train_model(
    job: Job, config: PipelineConfig, tokens: TokenizedData, force: bool = False
) -> TrainedCheckpoints:
    """Tokens → checkpoints; it goes on from the last whole one.

    Args:
        job: The job.
        config: How it trains.
        tokens: What it learns from.
        force: Whether it goes on also from a checkpoint of other data or settings.

    Raises:
        JobPausedError: The job was asked to pause.
        JobHandedBackError: Its worker is being stopped.
    """
    state: State[Any] = train(job, config, tokens, force, return_state=True)
    if stopped := STOPPED.get(state.name or ""):
        raise stopped(state.message or str(state.name))
    trained: TrainedCheckpoints = state.result()
    return trained


@task(name="train", **STAGE)
def train(
    job: Job, config: PipelineConfig, tokens: TokenizedData, force: bool
) -> TrainedCheckpoints | State[None]:
    """The training, or a completed state that says why it has stopped."""
    control = Control(job.control)
    request = TrainRequest(
        tokens=tokens,
        model=config.model,
        training=config.training,
        lora=config.lora,
        output=job.folder / "checkpoints",
        control=job.control,
        attempt=job.attempt,
        force=force,
    )
    tracking = Tracking(open_hub(job.organization), job)

    def work(tell: Emit) -> TrainedCheckpoints:
        artifact = ProgressArtifact(job)

        def hear(event: Event) -> None:
            for observer in (tell, artifact, tracking.tell_event):
                observer(event)

        with tracking.system_metrics():
            trained = supervise(request, folder=job.logs, on_event=hear)
        artifact.finished()
        return trained

    try:
        trained = run_stage(
            job,
            "train",
            lambda tell: finished_training(request.output) or work(tell),
            lambda trained: (
                f"{trained.steps:,} steps, {trained.trained_tokens:,} tokens, "
                f"loss {trained.train_loss:.4f}"
            ),
        )
        tracking.tell_training(trained)
        if control.asked() is Wish.PAUSE:  # too late for the training, in time for what follows
            control.done(Wish.PAUSE)
            raise JobPausedError(f"paused after the last step, {trained.steps}")
    except tuple(STOPPED.values()) as stop:
        name = next(name for name, kind in STOPPED.items() if isinstance(stop, kind))
        return Completed(name=name, message=stop.message)
    return trained
