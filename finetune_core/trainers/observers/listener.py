"""Listens, between two steps, to what is asked of the training."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_core.exceptions import JobHandedBackError, JobPausedError
from finetune_core.trainers.control import Control, Wish

WISHES: tuple[Wish | None, ...] = (None, *Wish)
ENDS = (Wish.GIVE_UP, Wish.PAUSE, Wish.HAND_BACK)
DOES_FOR: dict[Wish | None, tuple[Wish, ...]] = {
    Wish.PAUSE: (Wish.PAUSE, Wish.HAND_BACK, Wish.CHECKPOINT),
    Wish.HAND_BACK: (Wish.HAND_BACK, Wish.CHECKPOINT),
    Wish.CHECKPOINT: (Wish.CHECKPOINT,),
}


class Listener(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Has a checkpoint saved when one is asked for, and ends the loop behind it for a pause.

    It comes after the Keeper, which publishes what is saved. The first of several processes looks,
    and tells the others, so that all do the same after the same step. One that was taken for dead
    ends as soon as it looks.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._wish: Wish | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends before the first step: there is nothing new to save."""
        self._wish = self._hear()
        if self._wish in ENDS:
            self._fulfil(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Listens; at the end of an epoch, its validation belongs into the checkpoint."""
        if not float(state.epoch or 0).is_integer():
            self._listen(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Listens."""
        self._listen(control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the loop where that was asked; a training at its end has its record first."""
        if self._wish and not (self._wish in ENDS and control.should_training_stop):
            self._fulfil(state)

    def _listen(self, control: TrainerControl) -> None:
        self._wish = self._hear()
        if self._wish is Wish.GIVE_UP:
            self._control.check()
        elif self._wish:
            control.should_save = True

    def _hear(self) -> Wish | None:
        processes = PartialState()
        wish: Wish | None = self._control.asked() if processes.is_main_process else None
        if processes.num_processes == 1:
            return wish
        told = torch.tensor([WISHES.index(wish)], device=processes.device)
        return WISHES[int(broadcast(told))]

    def _fulfil(self, state: TrainerState) -> None:
        wish, self._wish = self._wish, None
        processes = PartialState()
        if wish is Wish.GIVE_UP:
            self._control.check()
        if processes.is_main_process:
            for each in DOES_FOR.get(wish, ()):
                self._control.done(each)
        processes.wait_for_everyone()
        if wish is Wish.PAUSE:
            raise JobPausedError(f"paused at step {state.global_step}")
        if wish is Wish.HAND_BACK:
            raise JobHandedBackError(f"handed back at step {state.global_step}")
