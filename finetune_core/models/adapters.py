"""Puts low-rank adapters on a model."""

from __future__ import annotations

from typing import Any

from finetune_core.config.sections import LoraConfig
from finetune_core.exceptions import TargetModulesError


def add_lora(model: Any, config: LoraConfig) -> Any:
    """Freezes a causal model and adds a trainable LoRA adapter (arXiv 2106.09685).

    Raises:
        TargetModulesError: The model has none of the named modules.
    """
    import peft

    lora = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        task_type=peft.TaskType.CAUSAL_LM,
    )
    names = _linear_modules(model)
    if config.target_modules != "all-linear":
        missing = sorted(set(config.target_modules) - names)
        if missing:
            raise TargetModulesError(
                f"lora.target_modules: the model has no module named {', '.join(missing)}",
                hint=f"It has: {', '.join(sorted(names))}.",
            )
    return peft.get_peft_model(model, lora)


def _linear_modules(model: Any) -> set[str]:
    """The last part of the names of a model's linear layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return {
        name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, kinds)
    }
