"""The methods of training: a record each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_core.config.defaults import default
from finetune_core.config.sections import LoraConfig, TrainingConfig, rows_a_step
from finetune_core.exceptions import DatasetFormatError
from finetune_core.models.adapters import add_lora, train_all
from finetune_core.models.loading import load_model, load_quantized, load_to_train
from finetune_core.types import DatasetFormat, TrainingMethod

FASTER = ("lora_B", "lora_magnitude_vector")  # what LoRA+ trains at a higher rate


@dataclass(frozen=True)
class Method:
    """What differs between methods.

    Attributes:
        name: How configs call it.
        learning_rate: The setting that holds its default learning rate.
        load: Loads the base, with the labels that it chooses from where it does.
        prepare: Makes the loaded base trainable, given the adapter's section and, where tokens may
            have been added, the tokenizer.
        refuses: The formats from whose rows it cannot learn.
    """

    name: TrainingMethod
    learning_rate: str = "training.adapter_learning_rate"
    load: Callable[..., Any] = load_model
    prepare: Callable[..., Any] = add_lora
    refuses: frozenset[DatasetFormat] = frozenset({DatasetFormat.PREFERENCE})


METHODS = {
    method.name: method
    for method in (
        Method(TrainingMethod.LORA),
        Method(TrainingMethod.QLORA, load=load_quantized),
        Method(
            TrainingMethod.INSTRUCTION_TUNING,
            refuses=frozenset({DatasetFormat.PREFERENCE, DatasetFormat.TEXT}),
        ),
        Method(
            TrainingMethod.FULL_FINETUNING,
            learning_rate="training.full_learning_rate",
            load=load_to_train,
            prepare=train_all,
        ),
    )
}


def check_format(method: TrainingMethod, found: str) -> None:
    """Refuses rows from which a method cannot learn.

    Raises:
        DatasetFormatError: They are of such a format.
    """
    if found in METHODS[method].refuses:
        raise DatasetFormatError(
            f"{method.value} does not learn from rows of the format {found}",
            hint="Choose another method, or name two columns by --input-field and --output-field.",
        )


def optimizer_groups(
    model: Any, training: TrainingConfig, lora: LoraConfig
) -> list[dict[str, Any]]:
    """The trained weights in the groups that an optimizer takes.

    Matrices decay, vectors do not. With LoRA+ (arXiv 2402.12354) B learns faster than A.

    Args:
        model: A prepared model.
        training: Says how fast weights are learned and decay.
        lora: Says how much faster B is.
    """
    rate, ratio = learning_rate(training), lora.loraplus_lr_ratio or 1.0
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            fast = any(part in name for part in FASTER)
            decay = training.weight_decay if weight.ndim > 1 else 0.0
            groups.setdefault((rate * ratio if fast else rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in groups.items()
    ]


def learning_rate(config: TrainingConfig) -> float:
    """The peak learning rate, `auto` resolved for the method."""
    if config.learning_rate == "auto":
        return float(default(METHODS[config.method].learning_rate))
    return config.learning_rate


def micro_batch_size(config: TrainingConfig) -> int:
    """Rows on a device at once: the most that may be and that divide a process's share.

    `auto` is all of the share; where that does not fit, `supervise` halves it.
    """
    rows = rows_a_step(config) // config.num_processes
    limit = rows if config.micro_batch_size == "auto" else min(config.micro_batch_size, rows)
    return max(size for size in range(1, limit + 1) if rows % size == 0)
