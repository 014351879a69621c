"""Decides when to validate, save and stop early, and turns what is saved into checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_core.child import Emit
from finetune_core.config.sections import TrainingConfig
from finetune_core.exceptions import DivergedError
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.control import Control
from finetune_core.trainers.room import Room


class Keeper(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Validates every `eval_steps` and after epochs; saves every `save_steps`, the best, the last.

    It keeps no state of its own: which validations were the best stands in the trainer's log,
    which a checkpoint holds, so a resumed training decides as the one that was killed.
    """

    def __init__(
        self,
        config: TrainingConfig,
        checkpoints: Checkpoints,
        room: Room,
        emit: Emit,
        control: Control | None = None,
    ) -> None:
        self._config = config
        self._checkpoints = checkpoints
        self._room = room
        self._emit = emit
        self._job = control

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Takes the room for the first save, so that it is known at once where there is none."""
        self._hold(state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Asks for what is due at this step; at the end of an epoch, that comes after it."""
        if float(state.epoch or 0).is_integer():
            return
        if self._config.eval_steps and state.global_step % self._config.eval_steps == 0:
            control.should_evaluate = True
        if state.global_step % self._config.save_steps == 0:
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Validates, and saves where a save fell on the epoch's last step or training ends."""
        control.should_evaluate = True
        if state.global_step % self._config.save_steps == 0 or control.should_training_stop:
            control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Saves the best model so far; stops when it has long been the best."""
        losses = _validations(state)
        since_best = len(losses) - 1 - losses.index(min(losses))
        if since_best == 0:
            control.should_save = True
        patience = self._config.early_stopping_patience
        if patience and since_best >= patience:
            control.should_training_stop = control.should_save = True

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Publishes what the processes have written; the first of them does."""
        processes = PartialState()
        processes.wait_for_everyone()
        if not _is_finite(model):
            raise DivergedError(f"weights are not finite numbers at step {state.global_step}")
        if processes.is_main_process:
            with self._room.watched(state.global_step):
                self._publish(args, state)
        self._hold(state, control)
        processes.wait_for_everyone()

    def _publish(self, args: TrainingArguments, state: TrainerState) -> None:
        written = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        last = state.log_history[-1] if state.log_history else {}
        valid_loss = last.get("eval_valid_loss") if last.get("step") == state.global_step else None
        if self._job:
            self._job.check()  # while it was written, another attempt may have taken the job over
        folder = self._checkpoints.publish(
            written, step=state.global_step, epoch=float(state.epoch or 0), valid_loss=valid_loss
        )
        self._checkpoints.prune(self._config.keep_checkpoints)
        self._emit({"type": "checkpoint", "step": state.global_step, "folder": str(folder)})

    def _hold(self, state: TrainerState, control: TrainerControl) -> None:
        if state.global_step < state.max_steps and not control.should_training_stop:
            self._room.hold(state.global_step)


def _is_finite(model: Any) -> bool:
    """Whether all weights that are trained are numbers: others must not become a checkpoint."""
    trained = (weight for weight in model.parameters() if weight.requires_grad)
    return all(bool(torch.isfinite(weight).all()) for weight in trained)


def _validations(state: TrainerState) -> list[float]:
    """The losses so far; one that is not a number is worse than all others."""
    found = (entry.get("eval_valid_loss") for entry in state.log_history)
    return [math.inf if math.isnan(loss) else loss for loss in found if loss is not None]
