"""Train: tokens → checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from accelerate import PartialState
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset

from finetune_core.child import Emit
from finetune_core.config.sections import LoraConfig, TrainingConfig, rows_a_step
from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.exceptions import FineTuneError, OutOfMemoryError, TrainingError
from finetune_core.models.source import find_model
from finetune_core.models.tasks import task_of
from finetune_core.storage import write_record
from finetune_core.trainers.batching import WithBlanks
from finetune_core.trainers.checkpoints import Checkpoint, Checkpoints
from finetune_core.trainers.control import Control
from finetune_core.trainers.kernels import use_kernels
from finetune_core.trainers.loop import Loop, arguments
from finetune_core.trainers.methods import METHODS, optimizer_groups
from finetune_core.trainers.observers.announcer import Announcer
from finetune_core.trainers.observers.keeper import Keeper
from finetune_core.trainers.observers.labeller import Labeller
from finetune_core.trainers.observers.listener import Listener
from finetune_core.trainers.origin import Origin, check_origin, origin_of
from finetune_core.trainers.request import TrainRequest
from finetune_core.trainers.room import Room, checkpoint_bytes
from finetune_core.types import TrainedCheckpoints


def train(request: TrainRequest, emit: Emit) -> TrainedCheckpoints:
    """Trains from the newest whole checkpoint on, or from the start.

    Raises:
        InputError: The model or its modules are not as the config says, or the checkpoint comes of
            other data or settings.
        JobPausedError: It was asked to pause, or the disk is full; it goes on when it is called
            again.
        TrainingError: The loop failed.
    """
    start = _newest(request.output, emit)
    if start:  # before a model is loaded
        check_origin(start, origin_of(request), force=request.force)
    return _run(make_loop(request, emit), request.training, request.output, start)


def make_loop(request: TrainRequest, emit: Emit) -> Loop:
    """Loads model and rows, and puts the loop together.

    Raises:
        InputError: The model or its modules are not as the config says.
    """
    _processes()  # before weights are loaded: it takes this process's device
    training = request.eased.applied(request.training)
    transformers.set_seed(training.seed)  # before the adapter's weights are drawn
    method = METHODS[training.method]
    tokenizer = load_tokenizer(find_model(request.model))
    return assemble(
        method.prepare(method.load(request.model, request.tokens.labels), request.lora, tokenizer),
        tokenizer,
        Dataset.from_file(str(request.tokens.train)),
        Dataset.from_file(str(request.tokens.validation)),
        training=training,
        lora=request.lora,
        output=request.output,
        emit=emit,
        origin=origin_of(request),
        control=Control(request.control, request.attempt) if request.control else None,
    )


def assemble(
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    validation: Dataset | None,
    *,
    training: TrainingConfig,
    lora: LoraConfig,
    output: Path,
    emit: Emit,
    origin: Origin | None = None,
    control: Control | None = None,
) -> Loop:
    """Puts together a prepared model, rows and everything that watches over a training.

    Args:
        model: As a method's `prepare` gives it.
        tokenizer: The model's.
        rows: To learn from, as `TOKENS_SCHEMA`.
        validation: Held out, likewise; where nothing is, the last checkpoint counts.
        training: How the model is trained.
        lora: Says how much faster an adapter's B is learned.
        output: Gets the checkpoints.
        emit: Hears of everything.
        origin: What the checkpoints say that they come of.
        control: Is asked, between steps, whether to go on.
    """
    checkpoints = Checkpoints(output, origin)
    processes = _processes()
    if processes.is_main_process:
        checkpoints.clear_staging()
    processes.wait_for_everyone()
    settings = arguments(training, checkpoints.staging)
    model.config.use_cache = False
    if settings.bf16:
        _cast(model)
    room = Room(checkpoints, checkpoint_bytes(model), first=processes.is_main_process)
    longest = max(max(split["length"]) for split in (rows, validation) if split is not None)
    if validation is not None:
        validation = validation.select(np.argsort(validation["length"], kind="stable"))
    return Loop(
        optimizer_groups=partial(optimizer_groups, training=training, lora=lora),
        kernels=use_kernels(model, longest),
        room=room,
        model=model,
        args=settings,
        lengths=rows["length"][:],
        train_dataset=WithBlanks(rows),
        eval_dataset=validation,
        data_collator=Collator(tokenizer, task_of(model)),
        processing_class=tokenizer,
        callbacks=[
            Announcer(emit),
            Labeller(),
            Keeper(training, checkpoints, room, emit, control),
            *([Listener(control)] if control else []),
        ],
    )


def run(loop: Loop, training: TrainingConfig, output: Path) -> TrainedCheckpoints:
    """Runs a loop from the newest whole checkpoint on, and writes the record of its end.

    Raises:
        JobPausedError: It was asked to pause, or the disk is full; it goes on when it is called
            again.
        TrainingError: The loop failed.
    """
    return _run(loop, training, output, _newest(output, lambda _: None))


def _newest(output: Path, emit: Emit) -> Checkpoint | None:
    with _processes().main_process_first():  # who sets a damaged checkpoint aside, alone
        return Checkpoints(output, emit=emit).newest()


def _run(
    loop: Loop, training: TrainingConfig, output: Path, start: Checkpoint | None
) -> TrainedCheckpoints:
    try:
        loop.train(resume_from_checkpoint=str(start.folder) if start else None)
    except FineTuneError:
        raise
    except Exception as error:
        if should_reduce_batch_size(error):
            raise OutOfMemoryError(
                f"a step of {loop.args.per_device_train_batch_size} rows does not fit the memory "
                f"of {_device_name()}",
                hint="Lower tokenization.max_length, or choose the method qlora.",
            ) from error
        raise TrainingError(f"training failed: {type(error).__name__}: {error}") from error
    finally:
        loop.room.release()
    state, settings = loop.state, loop.args
    trained, parameters = _parameters(loop.model)
    record = TrainedCheckpoints(
        folder=output,
        steps=state.global_step,
        epochs=float(state.epoch or 0),
        train_loss=[entry["loss"] for entry in state.log_history if "loss" in entry][-1],
        trained_tokens=int(state.num_input_tokens_seen),
        parameters=parameters,
        trained_parameters=trained,
        batch_size=rows_a_step(training),
        precision="bf16" if settings.bf16 else "fp16" if settings.fp16 else "float32",
        device=_device_name(),
    )
    if _processes().is_main_process:
        with loop.room.watched(state.global_step):
            write_record(output, record)
    return record


def _processes() -> PartialState:
    """Those that train together; this one alone, where no launcher has said otherwise."""
    return PartialState(cpu=not torch.cuda.is_available())


def _cast(model: Any) -> None:
    """Casts the weights that are not trained to bf16, once; autocast would at every step.

    A head that is trained beside an adapter is float32, for bf16 rounds small updates away.
    """
    adapted = isinstance(model, peft.PeftModel)
    for weight in model.parameters():
        if not weight.requires_grad and weight.dtype == torch.float32:
            weight.data = weight.data.to(torch.bfloat16)
        elif adapted and weight.requires_grad and weight.dtype == torch.bfloat16:
            weight.data = weight.data.float()


def _parameters(model: Any) -> tuple[int, int]:
    """The numbers that are trained, and all; 4-bit weights are stored two in one."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, every = model.get_nb_trainable_parameters()
        return int(trained), int(every)
    weights = list(model.parameters())
    every = sum(weight.numel() for weight in weights)
    return sum(weight.numel() for weight in weights if weight.requires_grad), every


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
