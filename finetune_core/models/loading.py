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
    return _load(config, dtype=_dtype(config))


def load_to_train(config: ModelConfig) -> Any:
    """As `load_model`, but `auto` is float32: bfloat16 rounds small updates of a weight away."""
    return _load(config, dtype="float32" if config.torch_dtype == "auto" else config.torch_dtype)


def load_quantized(config: ModelConfig) -> Any:
    """As `load_model`, with the weights of linear layers in `quantization_bits`, on the device.

    4 bits are NF4 with double quantisation (arXiv 2305.14314), 8 bits LLM.int8() (arXiv
    2208.07339). What is computed, and what is not quantised, is in `load_model`'s type.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

    dtype = _dtype(config)
    if config.quantization_bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model = _load(config, dtype=dtype, quantization_config=quantization, device_map={"": device})
    for part in model.modules():
        if isinstance(part, Linear4bit):
            # On some CPUs a validation would repack the weights for inference alone: what is
            # trained afterwards would have no gradient through them, and nobody would say so.
            part.support_avx512bf16_for_cpu = False
    return model


def fit_vocabulary(model: Any, tokenizer: Any) -> list[int]:
    """Gives a model a row of its embeddings for every token of a tokenizer.

    Returns:
        The ids of the tokens that had none, because they were added to the tokenizer.
    """
    rows = model.get_input_embeddings().num_embeddings
    needed = max(tokenizer.get_vocab().values()) + 1
    if needed > rows:
        model.resize_token_embeddings(needed)
    return list(range(rows, needed))


def bf16_on_gpu() -> bool:
    """Whether there is a GPU that computes in bfloat16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _dtype(config: ModelConfig) -> str:
    if config.torch_dtype != "auto":
        return config.torch_dtype
    return "bfloat16" if bf16_on_gpu() else "float32"


def _load(config: ModelConfig, *, dtype: str, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    find_model(config)
    try:
        return AutoModelForCausalLM.from_pretrained(
            config.name, revision=config.revision or "main", dtype=getattr(torch, dtype), **options
        )
    except Exception as error:  # transformers raises whatever the files make it stumble over
        raise ModelLoadError(f"the model {config.name} does not load: {error}") from error
