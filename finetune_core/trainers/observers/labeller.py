"""Puts the labels that a model chooses from beside the adapter that was trained to choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_core.models.tasks import task_of, write_labels
from finetune_core.types import Task


class Labeller(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Writes the labels into what the trainer saves; a whole model's config has them already."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Writes them, before anything else is done with the folder."""
        adapted = isinstance(model, peft.PeftModel)
        if adapted and task_of(model) is Task.CLASSIFICATION and state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_labels(folder, model.config.id2label)
