"""What training is asked, in a file of its own: whoever asks needs no torch."""

from __future__ import annotations

from pathlib import Path

from finetune_core.config.sections import LoraConfig, ModelConfig, TrainingConfig
from finetune_core.types import Record, TokenizedData

# glibc's: freed memory stays with the process, for the next step needs as much. Mapping it anew
# takes longer on a CPU than the step's products.
MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**46),
    "MALLOC_TOP_PAD_": str(2**26),
}


class Eased(Record):
    """What of a config does not hold any more; nothing where it still does.

    The rows of an optimizer step, and so what is learned, stay the same but for the learning rate.
    """

    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    learning_rate: float | None = None

    def applied(self, config: TrainingConfig) -> TrainingConfig:
        """The config as it holds now."""
        return config.model_copy(
            update={
                "micro_batch_size": self.micro_batch_size or config.micro_batch_size,
                "gradient_checkpointing": self.gradient_checkpointing
                or config.gradient_checkpointing,
                "learning_rate": self.learning_rate or config.learning_rate,
            }
        )


class TrainRequest(Record):
    """What training needs.

    `output` gets the checkpoints, and holds those of an earlier try. In `control`, as in
    `finetune_core.trainers.control`, a training may be asked to pause, and finds that another
    attempt has taken the job over. `eased` is what has failed of `training` before. With `force` it
    goes on also from a checkpoint of other data or settings.
    """

    tokens: TokenizedData
    model: ModelConfig
    training: TrainingConfig
    lora: LoraConfig
    output: Path
    control: Path | None = None
    attempt: int = 0
    eased: Eased = Eased()
    force: bool = False
