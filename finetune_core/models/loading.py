"""Loads base models."""

from __future__ import annotations

from typing import Any

from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import ModelLoadError
from finetune_core.models.source import find_model


def load_model(config: ModelConfig) -> Any:
    """Loads a causal model in the type that the config asks for; no code of the model's is run.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It is there but does not load.
    """
    import torch
    from transformers import AutoModelForCausalLM

    find_model(config)
    dtype = config.torch_dtype
    if dtype == "auto":
        dtype = "bfloat16" if bf16_on_gpu() else "float32"
    try:
        return AutoModelForCausalLM.from_pretrained(
            config.name, revision=config.revision or "main", dtype=getattr(torch, dtype)
        )
    except Exception as error:  # transformers raises whatever the files make it stumble over
        raise ModelLoadError(f"the model {config.name} does not load: {error}") from error


def bf16_on_gpu() -> bool:
    """Whether there is a GPU that computes in bfloat16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
