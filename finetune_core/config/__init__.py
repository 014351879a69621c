"""What a job is told: PipelineConfig, its sections, its defaults and limits."""

from finetune_core.config.builder import ConfigBuilder
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import (
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    RegistryConfig,
    TokenizationConfig,
    TrainingConfig,
)
from finetune_core.config.settings import Settings

__all__ = [
    "ConfigBuilder",
    "DatasetConfig",
    "EvaluationConfig",
    "LoraConfig",
    "ModelConfig",
    "PipelineConfig",
    "RegistryConfig",
    "SanitizeConfig",
    "Settings",
    "TokenizationConfig",
    "TrainingConfig",
]
