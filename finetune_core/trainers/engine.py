"""Train: tokens → checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset

from finetune_core.child import Emit
from finetune_core.config.sections import LoraConfig, TrainingConfig
from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.exceptions import FineTuneError, TrainingError
from finetune_core.models.source import find_model
from finetune_core.storage import write_record
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.kernels import use_kernels
from finetune_core.trainers.loop import Loop, arguments
from finetune_core.trainers.methods import METHODS, batch_size, optimizer_groups
from finetune_core.trainers.observers.announcer import Announcer
from finetune_core.trainers.observers.keeper import Keeper
from finetune_core.trainers.request import TrainRequest
from finetune_core.types import TrainedCheckpoints


def train(request: TrainRequest, emit: Emit) -> TrainedCheckpoints:
    """Trains from the newest whole checkpoint on, or from the start.

    Raises:
        InputError: The model or its modules are not as the config says.
        TrainingError: The loop failed.
    """
    return run(make_loop(request, emit), request.training, request.output)


def make_loop(request: TrainRequest, emit: Emit) -> Loop:
    """Loads model and rows, and puts the loop together.

    Raises:
        InputError: The model or its modules are not as the config says.
    """
    transformers.set_seed(request.training.seed)  # before the adapter's weights are drawn
    method = METHODS[request.training.method]
    tokenizer = load_tokenizer(find_model(request.model))
    return assemble(
        method.prepare(method.load(request.model), request.lora, tokenizer),
        tokenizer,
        Dataset.from_file(str(request.tokens.train)),
        Dataset.from_file(str(request.tokens.validation)),
        training=request.training,
        lora=request.lora,
        output=request.output,
        emit=emit,
    )


def assemble(
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    validation: Dataset,
    *,
    training: TrainingConfig,
    lora: LoraConfig,
    output: Path,
    emit: Emit,
) -> Loop:
    """Puts together a prepared model, rows and everything that watches over a training.

    Args:
        model: As a method's `prepare` gives it.
        tokenizer: The model's.
        rows: To learn from, as `TOKENS_SCHEMA`.
        validation: Held out, likewise.
        training: How the model is trained.
        lora: Says how much faster an adapter's B is learned.
        output: Gets the checkpoints.
        emit: Hears of everything.
    """
    checkpoints = Checkpoints(output)
    checkpoints.clear_staging()
    settings = arguments(training, checkpoints.staging)
    model.config.use_cache = False
    if settings.bf16:
        _cast_frozen(model)
    longest = max(max(split["length"]) for split in (rows, validation))
    return Loop(
        optimizer_groups=partial(optimizer_groups, training=training, lora=lora),
        kernels=use_kernels(model, longest),
        model=model,
        args=settings,
        train_dataset=rows,
        eval_dataset=validation.select(np.argsort(validation["length"], kind="stable")),
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
        callbacks=[Announcer(emit), Keeper(training, checkpoints, emit)],
    )


def run(loop: Loop, training: TrainingConfig, output: Path) -> TrainedCheckpoints:
    """Runs a loop from the newest whole checkpoint on, and writes the record of its end.

    Raises:
        TrainingError: The loop failed.
    """
    start = Checkpoints(output).newest()
    try:
        loop.train(resume_from_checkpoint=str(start.folder) if start else None)
    except FineTuneError:
        raise
    except Exception as error:
        raise TrainingError(f"training failed: {type(error).__name__}: {error}") from error
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
        batch_size=batch_size(training),
        precision="bf16" if settings.bf16 else "fp16" if settings.fp16 else "float32",
        device=_device_name(),
    )
    write_record(output, record)
    return record


def _cast_frozen(model: Any) -> None:
    """Casts the weights that are not trained to bf16, once; autocast would at every step."""
    for weight in model.parameters():
        if not weight.requires_grad and weight.dtype == torch.float32:
            weight.data = weight.data.to(torch.bfloat16)


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
