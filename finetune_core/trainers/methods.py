"""The methods of training: a record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_core.config.defaults import default
from finetune_core.config.sections import LoraConfig, TrainingConfig
from finetune_core.models.adapters import add_lora
from finetune_core.types import TrainingMethod


@dataclass(frozen=True)
class Method:
    """What differs between methods.

    Attributes:
        name: How configs call it.
        learning_rate: The setting that holds its default learning rate.
        prepare: Makes the loaded model trainable.
    """

    name: TrainingMethod
    learning_rate: str
    prepare: Callable[[Any, LoraConfig], Any]


METHODS = {
    method.name: method
    for method in (
        Method(
            name=TrainingMethod.LORA,
            learning_rate="training.adapter_learning_rate",
            prepare=add_lora,
        ),
    )
}


def learning_rate(config: TrainingConfig) -> float:
    """The peak learning rate, `auto` resolved for the method."""
    if config.learning_rate == "auto":
        return float(default(METHODS[config.method].learning_rate))
    return config.learning_rate


def batch_size(config: TrainingConfig) -> int:
    """Rows an optimizer step, `auto` resolved."""
    if config.batch_size == "auto":
        return int(default("training.auto_batch_size"))
    return config.batch_size


def micro_batch_size(config: TrainingConfig) -> int:
    """Rows on the device at once, `auto` resolved: the largest fit that divides the batch."""
    rows = batch_size(config)
    limit = rows if config.micro_batch_size == "auto" else min(config.micro_batch_size, rows)
    return max(size for size in range(1, limit + 1) if rows % size == 0)
