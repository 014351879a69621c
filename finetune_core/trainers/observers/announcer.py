"""Announces what happens in the training loop as events."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_core.child import Emit
from finetune_core.exceptions import DivergedError

VALIDATING_SECONDS = 10.0  # between two words of a validation that lasts


class Announcer(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Emits an event for each logged step, validation and epoch, and now and then within one.

    Speed counts the time of the steps alone: validation and saving do not blur it.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._step_began = self._epoch_began = perf_counter()
        self._step_seconds = 0.0
        self._tokens = 0
        self._spoke = perf_counter()
        self._validated = 0  # batches of the validation that goes on

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says how much there is to do."""
        self._tokens = int(state.num_input_tokens_seen)
        self._emit({"type": "began", "step": state.global_step, "total_steps": state.max_steps})

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the epoch's clock."""
        self._epoch_began = perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the step's clock."""
        self._step_began = perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stops the step's clock."""
        self._step_seconds += perf_counter() - self._step_began
        self._validated, self._spoke = 0, perf_counter()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says in a long validation that it goes on: who is silent is taken for hung."""
        self._validated += 1
        if perf_counter() - self._spoke >= VALIDATING_SECONDS:
            self._spoke = perf_counter()
            event = {"type": "validating", "step": state.global_step, "batches": self._validated}
            self._emit(event)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says how long the epoch took."""
        self._emit(
            {
                "type": "epoch",
                "step": state.global_step,
                "epoch": state.epoch,
                "epoch_seconds": perf_counter() - self._epoch_began,
            }
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Says how the last steps went, or what a validation measured."""
        logs = logs or {}
        if "eval_valid_loss" in logs:
            self._emit(
                {
                    "type": "validation",
                    "step": state.global_step,
                    "epoch": state.epoch,
                    "valid_loss": logs["eval_valid_loss"],
                    "valid_token_accuracy": logs["eval_valid_token_accuracy"],
                }
            )
        if "loss" not in logs:
            return
        tokens = int(state.num_input_tokens_seen)
        self._emit(
            {
                "type": "step",
                "step": state.global_step,
                "total_steps": state.max_steps,
                "epoch": state.epoch,
                "train_loss": logs["loss"],
                "train_token_accuracy": logs["token_accuracy"],
                "grad_norm": logs["grad_norm"],
                "learning_rate": logs["learning_rate"],
                "tokens": tokens,
                "tokens_per_s": (tokens - self._tokens) / max(self._step_seconds, 1e-9),
            }
        )
        self._tokens, self._step_seconds = tokens, 0.0
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            raise DivergedError(
                f"the loss is {logs['loss']} and the gradient norm {logs['grad_norm']} "
                f"at step {state.global_step}",
                hint="Lower training.learning_rate, or train in float32.",
            )
