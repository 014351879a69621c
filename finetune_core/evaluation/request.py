"""What an evaluation is asked, in a file of its own: whoever asks needs no torch."""

from __future__ import annotations

from pathlib import Path

from finetune_core.config.sections import EvaluationConfig, ModelConfig
from finetune_core.types import ChosenCheckpoint, Record, TokenizedData, TrainingMethod


class EvaluateRequest(Record):
    """What evaluating needs; `output` is the report's folder.

    The base is quantised where `method` quantised it to train.
    """

    tokens: TokenizedData
    chosen: ChosenCheckpoint
    model: ModelConfig
    method: TrainingMethod = TrainingMethod.LORA
    evaluation: EvaluationConfig
    output: Path
