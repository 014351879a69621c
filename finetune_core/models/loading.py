"""Loads base models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from finetune_core.config.sections import ModelConfig
from finetune_core.data.encode import load_tokenizer
from finetune_core.exceptions import ModelLoadError
from finetune_core.models.source import find_model
from finetune_core.models.tasks import KINDS, find_task
from finetune_core.types import Task, TrainingMethod


def load_model(config: ModelConfig, labels: Sequence[str] = ()) -> Any:
    """Loads a model in the type that the config asks for; no code of the model's is run.

    Args:
        config: The model.
        labels: What one that chooses chooses from; its head is drawn anew where it does not fit.
            Without it, what its own config names.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It is there but does not load.
        InvalidConfigError: It cannot do the task that the config forces.
    """
    return _load(config, labels, dtype=_dtype(config))


def load_to_train(config: ModelConfig, labels: Sequence[str] = ()) -> Any:
    """As `load_model`, but `auto` is float32: bfloat16 rounds small updates of a weight away."""
    dtype = "float32" if config.torch_dtype == "auto" else config.torch_dtype
    return _load(config, labels, dtype=dtype)


def load_as_stored(config: ModelConfig, labels: Sequence[str] = ()) -> Any:
    """As `load_model`, in the type, or the few bits, of the files."""
    return _load(config, labels, dtype="auto")


def load_quantized(config: ModelConfig, labels: Sequence[str] = ()) -> Any:
    """As `load_model`, with the weights of linear layers in `quantization_bits`, on the device.

    4 bits are NF4 with double quantisation (arXiv 2305.14314), 8 bits LLM.int8() (arXiv
    2208.07339). What is computed, and what is not quantised, is in `load_model`'s type.
    """
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig

    dtype = _dtype(config)
    whole = _new_parts(config)
    if config.quantization_bits == 4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=whole,
        )
    else:
        quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model = _load(
        config, labels, dtype=dtype, quantization_config=quantization, device_map={"": device}
    )
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


def new_parts(model: Any) -> list[str]:
    """The parts of a model that chooses which its base may not have: all behind the body.

    They are trained whole. The body's own pooler is one of them: a base that was made to fill in
    words has none.
    """
    body = model.base_model
    heads = [name for name, part in model.named_children() if part is not body]
    poolers = [f"{model.base_model_prefix}.{name}" for name, _ in body.named_children()]
    found = [*(name for name in poolers if name.endswith(".pooler")), *heads]
    return [name for name in found if any(True for _ in model.get_submodule(name).parameters())]


def _new_parts(config: ModelConfig) -> list[str] | None:
    """As `new_parts`, of a model that is not loaded yet; nothing for one that writes."""
    import torch
    import transformers

    task = find_task(config)
    if task is not Task.CLASSIFICATION:
        return None
    loader = getattr(transformers, KINDS[task].loader)
    with _faults(config, task), torch.device("meta"):
        shape = transformers.AutoConfig.from_pretrained(find_model(config))
        return new_parts(loader.from_config(shape))


def _load(config: ModelConfig, labels: Sequence[str], *, dtype: str, **options: Any) -> Any:
    import torch
    import transformers

    task, folder = find_task(config), find_model(config)
    if labels:
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: number for number, label in enumerate(labels)}
        options["ignore_mismatched_sizes"] = True
    loader = getattr(transformers, KINDS[task].loader)
    options["dtype"] = dtype if dtype == "auto" else getattr(torch, dtype)
    with _faults(config, task):
        model = loader.from_pretrained(config.name, revision=config.revision or "main", **options)
    text = model.config.get_text_config()
    if task is Task.CLASSIFICATION and text.pad_token_id is None:  # where a row ends, it looks for
        from finetune_core.data.collate import padding

        text.pad_token_id = padding(load_tokenizer(folder))
    return model


@contextmanager
def _faults(config: ModelConfig, task: Task) -> Iterator[None]:
    """What transformers raises is whatever the files make it stumble over."""
    try:
        yield
    except Exception as error:
        forced = "" if config.task == "auto" else f" for the task {task.value}"
        raise ModelLoadError(f"the model {config.name} does not load{forced}: {error}") from error


def load_model_and_tokenizer(
    config: ModelConfig, method: TrainingMethod | None = None, labels: Sequence[str] = ()
) -> tuple[Any, Any]:
    """Loads a model onto the device, and its tokenizer, with a token to pad with.

    Args:
        config: The model.
        method: What it is for: it is loaded as a job of that method does. Without it, it is
            quantised where `quantization_bits` is set, and else as for `lora`.
        labels: What one that chooses chooses from, sorted; without them, what it was made for.

    Returns:
        The model and the tokenizer.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It is there but does not load.
    """
    import torch

    tokenizer = load_tokenizer(find_model(config))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    asked = method is None and "quantization_bits" in config.model_fields_set
    if asked or method is TrainingMethod.QLORA:
        return load_quantized(config, labels), tokenizer
    load = load_to_train if method is TrainingMethod.FULL_FINETUNING else load_model
    return load(config, labels).to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
