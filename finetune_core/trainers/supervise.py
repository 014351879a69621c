"""Supervises a training: runs it in child processes, and eases what it failed by.

What is eased stands beside the checkpoints, so that it holds for whoever goes on with them.
"""

from __future__ import annotations

from pathlib import Path

from finetune_core import child
from finetune_core.child import Emit, Event, EventFile
from finetune_core.config.sections import TrainingConfig
from finetune_core.exceptions import DivergedError, OutOfMemoryError
from finetune_core.storage import write_json
from finetune_core.trainers.launch import launcher
from finetune_core.trainers.methods import learning_rate, micro_batch_size
from finetune_core.trainers.request import MEMORY, Eased, TrainRequest
from finetune_core.types import TrainedCheckpoints

TARGET = "finetune_core.trainers.engine:train"


def supervise(request: TrainRequest, *, folder: Path, on_event: Emit) -> TrainedCheckpoints:
    """Trains to the end.

    Memory that does not suffice halves the rows at once, and at one row computes activations
    twice; a loss that is not finite any more halves the learning rate, once. Each time the training
    goes on from its last checkpoint, and an event says so.

    Args:
        request: What is trained.
        folder: Gets the child's events and its log.
        on_event: Hears of all events.

    Raises:
        IncompatibleCheckpointError: Its checkpoints come of other data or settings.
        JobPausedError: It was asked to pause, or the disk is full; it goes on when it is called
            again.
        FineTuneError: What the training failed by, where nothing was left to ease.
    """
    file = request.output / "eased.json"
    events = EventFile(child.files(folder, "train").events)
    eased = Eased.model_validate_json(file.read_text()) if file.exists() else Eased()
    while True:
        training = eased.applied(request.training)
        try:
            return child.run(
                TARGET,
                request.model_copy(update={"eased": eased}),
                TrainedCheckpoints,
                folder=folder,
                on_event=on_event,
                environment=MEMORY,
                launcher=launcher(training),
            )
        except (OutOfMemoryError, DivergedError) as error:
            easier = easier_than(eased, training, error)
            if easier is None:
                raise
            eased = easier
            request.output.mkdir(parents=True, exist_ok=True)
            write_json(file, eased.model_dump())
            event = _event(error, eased)
            events.append(event)
            on_event(event)


def easier_than(
    eased: Eased, training: TrainingConfig, error: OutOfMemoryError | DivergedError
) -> Eased | None:
    """What to try next, or nothing where all has been tried.

    Args:
        eased: What has been.
        training: The config with that applied.
        error: What it failed by.
    """
    if isinstance(error, DivergedError):
        if eased.learning_rate is not None:
            return None
        return eased.model_copy(update={"learning_rate": learning_rate(training) / 2})
    rows = micro_batch_size(training)
    if rows > 1:
        fewer = training.model_copy(update={"micro_batch_size": rows // 2})
        return eased.model_copy(update={"micro_batch_size": micro_batch_size(fewer)})
    if not training.gradient_checkpointing:
        return eased.model_copy(update={"gradient_checkpointing": True})
    return None


def _event(error: OutOfMemoryError | DivergedError, eased: Eased) -> Event:
    if isinstance(error, DivergedError):
        action = f"goes on at half the learning rate, {eased.learning_rate:g}"
    elif eased.gradient_checkpointing:
        action = "goes on with activations computed twice"
    else:
        action = f"goes on with {eased.micro_batch_size} rows at once; a step has as many as before"
    return {"type": "eased", "cause": error.message, "action": action, **eased.model_dump()}
