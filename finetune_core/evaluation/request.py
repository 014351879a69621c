"""What an evaluation is asked, in a file of its own: whoever asks needs no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from finetune_core.config.sections import (
    EvaluationConfig,
    GateConfig,
    ModelConfig,
    TokenizationConfig,
)
from finetune_core.config.sql import SqlConfig
from finetune_core.types import (
    ChosenCheckpoint,
    EvaluationReport,
    Record,
    TokenizedData,
    TrainingMethod,
)


class EvaluateRequest(Record):
    """What evaluating needs; `output` is the report's folder.

    The base is quantised where `method` quantised it to train.
    """

    tokens: TokenizedData
    chosen: ChosenCheckpoint
    model: ModelConfig
    method: TrainingMethod = TrainingMethod.LORA
    evaluation: EvaluationConfig
    sql: SqlConfig = Field(default_factory=SqlConfig)
    output: Path


class ChallengeRequest(EvaluateRequest):
    """What a challenge needs: `report` is of the candidate, `champion` the folder of who is now."""

    report: EvaluationReport
    champion: Path | None
    gate: GateConfig
    tokenization: TokenizationConfig

    @property
    def has_to_run(self) -> bool:
        """Whether there is more to measure than the report says: else base and tuned will do."""
        gate = self.gate
        extra = gate.general_path or gate.regression_path or gate.check_merge
        return bool(self.champion or extra)
