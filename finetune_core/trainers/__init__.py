"""Training: of loaded models from Python (`api`), and of jobs (`engine`); no torch on import."""

from finetune_core.data.pipeline import format_instruction_dataset
from finetune_core.trainers.api import (
    FullFineTuner,
    InstructionTrainer,
    LoRATrainer,
    QLoRATrainer,
    TrainerFactory,
    TrainingResult,
)

__all__ = [
    "FullFineTuner",
    "InstructionTrainer",
    "LoRATrainer",
    "QLoRATrainer",
    "TrainerFactory",
    "TrainingResult",
    "format_instruction_dataset",
]
