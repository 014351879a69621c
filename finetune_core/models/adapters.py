"""What of a model is trained: a low-rank adapter, or all of it."""

from __future__ import annotations

import re
import warnings
from typing import Any

from finetune_core.config.sections import LoraConfig
from finetune_core.exceptions import TargetModulesError
from finetune_core.models.loading import fit_vocabulary, new_parts
from finetune_core.models.tasks import KINDS, task_of
from finetune_core.types import Task

LARGE = 1_000_000_000  # parameters, above which training them all is for large machines


def add_lora(model: Any, config: LoraConfig, tokenizer: Any = None) -> Any:
    """Freezes a model and adds a trainable LoRA adapter (arXiv 2106.09685).

    The embeddings of tokens that the model does not know yet are trained besides, and so is the
    head of a model that chooses.

    Args:
        model: The loaded base.
        config: The adapter.
        tokenizer: Names the tokens; without it, the model is taken to know them all.

    Raises:
        TargetModulesError: The model has none of the named modules.
    """
    import peft

    _check_targets(model, config.target_modules)
    added = fit_vocabulary(model, tokenizer) if tokenizer else []
    task = task_of(model)
    pissa = config.initialization == "pissa"
    lora = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init_lora_weights="pissa_niter_16" if pissa else True,
        trainable_token_indices=dict.fromkeys(_embeddings(model), added) if added else None,
        modules_to_save=new_parts(model) if task is Task.CLASSIFICATION else None,
        task_type=KINDS[task].peft,
        base_model_name_or_path=model.name_or_path,
    )
    if pissa:
        from finetune_core.models.pissa import PissaModel

        return PissaModel(model, lora)
    adapted = peft.get_peft_model(model, lora)
    for found in adapted.peft_config.values():
        put_in_order(found)
    return adapted


def put_in_order(config: Any) -> None:
    """Has an adapter's config be the same bytes each time: its modules are a set of peft's."""
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)


def train_all(model: Any, config: LoraConfig, tokenizer: Any = None) -> Any:
    """Makes every weight of a model trainable; there is no adapter.

    Warns:
        ResourceWarning: The model is large.
    """
    if tokenizer:
        fit_vocabulary(model, tokenizer)
    parameters = sum(weight.numel() for weight in model.parameters())
    if parameters > LARGE:
        gib = 16 * parameters / 2**30  # weight, gradient and two moments, 4 bytes each
        warnings.warn(
            f"all {parameters / 1e9:.1f} billion parameters are trained, which takes {gib:,.0f} "
            "GiB besides the activations; the methods lora and qlora take a fraction of that",
            ResourceWarning,
            stacklevel=2,
        )
    return model.requires_grad_(True)


def _check_targets(model: Any, targets: str | list[str]) -> None:
    """Finds at once what peft would say less plainly, or pass over.

    Raises:
        TargetModulesError: A name or the expression leads to no linear layer, or to more.
    """
    if targets == "all-linear":
        return
    linear = _linear_layers(model)
    hint = f"It has: {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}."
    if isinstance(targets, str):
        found = [name for name, _ in model.named_modules() if re.fullmatch(targets, name)]
        if not found:
            example = max(linear, key=lambda name: name.count("."))
            raise TargetModulesError(
                f"lora.target_modules: the model has no module that {targets!r} matches",
                hint=f"{hint} What is matched is a whole name, as {example}.",
            )
        missing = [name for name in found if name not in linear]
    else:
        missing = sorted(
            target
            for target in set(targets)
            if not any(f".{name}".endswith(f".{target}") for name in linear)
        )
    if missing:
        kind = "linear layer" if isinstance(targets, str) else "module"
        raise TargetModulesError(
            f"lora.target_modules: the model has no {kind} named {', '.join(missing)}", hint=hint
        )


def _linear_layers(model: Any) -> set[str]:
    """The whole names of a model's linear layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return {name for name, part in model.named_modules() if isinstance(part, kinds)}


def _embeddings(model: Any) -> list[str]:
    """The names of the modules with a row a token: one where input and output share theirs."""
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    parts = [read] if written is None or written.weight is read.weight else [read, written]
    return [name for name, part in model.named_modules() if any(part is each for each in parts)]
