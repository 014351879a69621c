"""ConfigBuilder: a config put together section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.types import DatasetSource, EvaluationMetric, TrainingMethod


class ConfigBuilder:
    """Collects the sections of a config; `build` checks them, all faults together.

    Example:
        >>> config = (
        ...     ConfigBuilder()
        ...     .with_model("examples/tiny_base")
        ...     .with_dataset("examples/data/train.jsonl")
        ...     .with_lora(lora_rank=8)
        ...     .build()
        ... )
    """

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, Any]] = {}

    def with_model(self, name: str, **fields: Any) -> ConfigBuilder:
        """Sets the base model and the fields of `ModelConfig`."""
        return self._with("model", name=name, **fields)

    def with_dataset(
        self,
        path: str | Path,
        source: DatasetSource = DatasetSource.LOCAL_FILE,
        **fields: Any,
    ) -> ConfigBuilder:
        """Sets the training file and the fields of `DatasetConfig`."""
        return self._with("dataset", path=str(path), source=source, **fields)

    def with_tokenization(self, **fields: Any) -> ConfigBuilder:
        """Sets the fields of `TokenizationConfig`."""
        return self._with("tokenization", **fields)

    def with_training(
        self,
        method: TrainingMethod = TrainingMethod.LORA,
        output_dir: str | Path | None = None,
        **fields: Any,
    ) -> ConfigBuilder:
        """Sets the method, the output folder and the fields of `TrainingConfig`."""
        return self._with("training", method=method, output_dir=output_dir, **fields)

    def with_lora(self, **fields: Any) -> ConfigBuilder:
        """Sets the fields of `LoraConfig`."""
        return self._with("lora", **fields)

    def with_evaluation(
        self, metrics: list[EvaluationMetric] | None = None, **fields: Any
    ) -> ConfigBuilder:
        """Sets the metrics and the fields of `EvaluationConfig`."""
        return self._with("evaluation", **({"metrics": metrics} if metrics else {}), **fields)

    def with_registry(self, model_name: str | None = None, **fields: Any) -> ConfigBuilder:
        """Sets the registered model's name and the fields of `RegistryConfig`."""
        return self._with("registry", model_name=model_name, **fields)

    def build(self) -> PipelineConfig:
        """Checks everything and gives the config.

        Raises:
            ConfigError: As `PipelineConfig.parse` raises it.
        """
        return PipelineConfig.parse(self._sections)

    def _with(self, section: str, **fields: Any) -> ConfigBuilder:
        self._sections[section] = {**self._sections.get(section, {}), **fields}
        return self
