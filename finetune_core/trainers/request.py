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


class TrainRequest(Record):
    """What training needs.

    `output` gets the checkpoints, and holds those of an earlier try. In `control`, as in
    `finetune_core.trainers.control`, a training may be asked to pause, and finds that another
    attempt has taken the job over.
    """

    tokens: TokenizedData
    model: ModelConfig
    training: TrainingConfig
    lora: LoraConfig
    output: Path
    control: Path | None = None
    attempt: int = 0
