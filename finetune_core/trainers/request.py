"""What training is asked, in a file of its own: whoever asks needs no torch."""

from __future__ import annotations

from pathlib import Path

from finetune_core.config.sections import LoraConfig, ModelConfig, TrainingConfig
from finetune_core.types import Record, TokenizedData


class TrainRequest(Record):
    """What training needs; `output` gets the checkpoints, and holds those of an earlier try."""

    tokens: TokenizedData
    model: ModelConfig
    training: TrainingConfig
    lora: LoraConfig
    output: Path
