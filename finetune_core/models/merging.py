"""Merge: base and adapter → one model that loads without peft, checked against the two.

All is done on the CPU: a base that was tuned in 4 bits need not fit the GPU in 16.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finetune_core.child import Emit
from finetune_core.config.sections import ModelConfig
from finetune_core.data.encode import load_tokenizer
from finetune_core.data.formats import Message, RowFault, find_format, user
from finetune_core.data.loading import read_rows
from finetune_core.data.templates import make_renderer
from finetune_core.exceptions import (
    AdapterError,
    DatasetFormatError,
    ModelNotFoundError,
    ParityError,
)
from finetune_core.models.loading import fit_vocabulary, load_as_stored
from finetune_core.models.source import (
    digest_files,
    digest_weights,
    find_model,
    tokenizer_folder,
)
from finetune_core.models.tasks import find_task, read_labels, task_named, task_of
from finetune_core.storage import check_free, new_folder, write_json
from finetune_core.types import Record, Task, Template

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "float16", "bfloat16"]

REPORT = "merge_report.json"
ADAPTER_CONFIG = "adapter_config.json"
STEPS = 4  # that the bar shows: the adapter asked, merged, written, the merged model asked

TEXTS = ("Hello, who are you?", "The capital of France is", "def add(a, b):", "17 + 25 =", "你好")
VOCABULARY_TOKENS = 64  # one more prompt, of tokens from all over the vocabulary
FILE_PROMPTS, PROMPT_TOKENS = 32, 64  # the logits of all are held at once, 0.5 MB a token

SIGMAS = 6.0  # the largest of a billion normal errors is as far out
BLOCK_ROUNDINGS = 12  # results that a block rounds: 7 products, 2 norms, 1 activation, 2 sums


class MergeRequest(Record):
    """What a merge is asked.

    Attributes:
        adapter: The adapter's folder.
        output: Gets the merged model; not there yet, or empty.
        base: The base's folder or id; without it, the one that the adapter names.
        dtype: The precision that is written; without it, the base's own.
        prompts: A file of rows that are compared besides our own texts.
    """

    adapter: Path
    output: Path
    base: str | None = None
    dtype: Dtype | None = None
    prompts: Path | None = None


class MergeReport(Record):
    """What was merged, and how far the merged model is from base and adapter.

    Attributes:
        prompts: Texts that both were given.
        tokens: Places in these texts, at each of which all logits are compared.
        max_logit_difference: The largest difference between two logits.
        tolerance: How large it may be.
        equal_greedy_tokens: The share of places where both find the same token likeliest.
    """

    output: Path
    base: str
    base_digest: str
    adapter: Path
    adapter_digest: str
    dtype: str
    parameters: int
    prompts: int
    tokens: int
    max_logit_difference: float
    tolerance: float
    equal_greedy_tokens: float


class Parity(NamedTuple):
    """How far two models are apart on the same prompts."""

    max_logit_difference: float
    equal_greedy_tokens: float


def merge(request: MergeRequest, emit: Emit) -> MergeReport:
    """Writes the merged model with its tokenizer and a report, whole or not at all.

    Raises:
        InputError: There is no such adapter, base or file of prompts, or they do not fit.
        ParityError: The model that was written does not answer as base and adapter do.
    """
    adapter = read_adapter(request.adapter)
    check_free(request.output)
    base = _find_base(request, adapter)
    with new_folder(request.output) as folder:
        report = _write(request, base, folder, emit)
        write_json(folder / REPORT, report.model_dump(mode="json"))
    return report


def read_adapter(folder: Path) -> dict[str, Any]:
    """An adapter's own config.

    Raises:
        AdapterError: The folder holds none.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text())
    except OSError:
        raise AdapterError(
            f"the folder {folder} holds no adapter: it has no readable {ADAPTER_CONFIG}",
            hint="Give a folder that save_pretrained of peft wrote, as a job's adapter/.",
        ) from None
    except ValueError as error:
        raise AdapterError(f"{folder / ADAPTER_CONFIG} is not JSON ({error})") from None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise AdapterError(f"{folder / ADAPTER_CONFIG} is not the config of an adapter")
    return config


def base_of(adapter: Mapping[str, Any]) -> ModelConfig:
    """The base that an adapter's own config names, for the task that it was trained for."""
    return ModelConfig(
        name=adapter["base_model_name_or_path"],
        revision=adapter.get("revision"),
        task=task_named(adapter.get("task_type")),
    )


def logits(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The logits of the prompts, float32.

    Of a causal model at every place: (places, vocabulary). An encoder-decoder reads each prompt as
    the answer to itself, with the same shape; of a model that chooses, (prompts, labels).
    """
    import torch

    reads_answer = task_of(model) is Task.SEQ2SEQ
    model.eval()

    def ask(ids: Sequence[int]) -> torch.Tensor:
        read = torch.tensor([ids])
        found = model(input_ids=read, **({"labels": read} if reads_answer else {}))
        places: torch.Tensor = found.logits.flatten(0, -2)
        return places

    with torch.inference_mode():
        return torch.cat([ask(ids) for ids in prompts]).float()


def compare(expected: torch.Tensor, found: torch.Tensor) -> Parity:
    """Compares two models' logits, each as `logits` gives them."""
    same = expected.argmax(-1) == found.argmax(-1)
    return Parity(float((expected - found).abs().max()), float(same.float().mean()))


def tolerance(expected: torch.Tensor, *, eps: float, layers: int, width: int) -> float:
    """How far apart the logits of two models may be that differ by rounding alone.

    Adapter and merged model add the same numbers in another order, and round them elsewhere.
    Each result of a block is off by half an `eps` at most, and by the root of its width times
    half the eps of float32, in which its products are summed. Errors of chance add up by the
    root of their number (Higham and Mary, "A new approach to probabilistic rounding error
    analysis", 2019).

    Args:
        expected: The logits, as `logits` gives them; errors are relative to their size.
        eps: Of the coarser of the two models' types.
        layers: The model's blocks.
        width: The numbers of its hidden state.
    """
    import torch

    rounding = (eps + math.sqrt(width) * torch.finfo(torch.float32).eps) / 2
    size = float(expected.square().mean().sqrt())
    return SIGMAS * math.sqrt(BLOCK_ROUNDINGS * layers) * rounding * size


def _write(request: MergeRequest, base: ModelConfig, folder: Path, emit: Emit) -> MergeReport:
    import torch

    done = iter(range(1, STEPS + 1))

    def tell() -> None:
        emit({"type": "progress", "done": next(done), "total": STEPS})

    tokenizer = load_tokenizer(tokenizer_folder(request.adapter, find_model(base)))
    prompts = list(_prompts(tokenizer, find_task(base), request.prompts))
    labels = read_labels(request.adapter)
    model = _load_base(base, labels)
    own = model.dtype
    fit_vocabulary(model, tokenizer)
    model = _with_adapter(model, request.adapter, base.name)
    dtype = getattr(torch, request.dtype) if request.dtype else own
    expected = logits(model, prompts)
    tell()
    model = _joined(model).to(dtype)
    tell()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tell()
    del model  # there may be no room for two
    merged = load_as_stored(base.model_copy(update={"name": str(folder), "revision": None}))
    found = logits(merged, prompts)
    tell()
    text = merged.config.get_text_config()
    decoder = getattr(text, "num_decoder_layers", None) or getattr(text, "decoder_layers", 0)
    limit = tolerance(
        expected,
        eps=max(torch.finfo(own).eps, torch.finfo(dtype).eps),
        layers=text.num_hidden_layers + decoder,
        width=text.hidden_size,
    )
    parity = compare(expected, found)
    if not parity.max_logit_difference <= limit:  # so that NaN is none either
        raise ParityError(
            f"the merged model does not answer as base and adapter do: the largest logit "
            f"difference is {parity.max_logit_difference:.3g}, of {limit:.3g} that rounding to "
            f"{str(dtype).removeprefix('torch.')} explains; {parity.equal_greedy_tokens:.1%} of "
            "the likeliest tokens are the same",
            hint="Nothing was written. Perhaps --dtype is too coarse for this adapter.",
        )
    return MergeReport(
        output=request.output,
        base=base.name,
        base_digest=digest_weights(base),
        adapter=request.adapter,
        adapter_digest=digest_files(request.adapter, ("adapter_*",)),
        dtype=str(dtype).removeprefix("torch."),
        parameters=merged.num_parameters(),
        prompts=len(prompts),
        tokens=len(expected),
        max_logit_difference=parity.max_logit_difference,
        tolerance=limit,
        equal_greedy_tokens=parity.equal_greedy_tokens,
    )


def _find_base(request: MergeRequest, adapter: dict[str, Any]) -> ModelConfig:
    """The base that is asked for, or that the adapter names."""
    named = adapter.get("base_model_name_or_path")
    if not request.base and not named:
        raise AdapterError(
            f"the adapter in {request.adapter} names no base", hint="Give it by --base-model."
        )
    config = base_of({**adapter, "base_model_name_or_path": named or request.base})
    if request.base:
        config = config.model_copy(update={"name": request.base, "revision": None})
    try:
        find_model(config)
    except ModelNotFoundError as error:
        error.hint = "Give the base's folder, or its id on the hub, by --base-model."
        raise
    return config


def _load_base(config: ModelConfig, labels: Sequence[str]) -> Any:
    """The base in the precision of its files; one that is stored in few bits is unpacked."""
    model = load_as_stored(config, labels)
    if getattr(model, "hf_quantizer", None):
        model = model.dequantize()
        # Saving undoes what loading did to the weights, and cannot for bitsandbytes, even where
        # that is undone already (huggingface/transformers#45743).
        model._weight_conversions = None
    return model


def _with_adapter(model: Any, folder: Path, base: str) -> Any:
    import peft

    try:
        model = peft.PeftModel.from_pretrained(model, folder, torch_device="cpu")
    except Exception as error:  # peft raises whatever the files make it stumble over
        raise AdapterError(
            f"the adapter in {folder} does not fit the base {base}: {error}"
        ) from error
    if not hasattr(model.base_model, "merge_and_unload"):
        kind = model.active_peft_config.peft_type.value
        raise AdapterError(f"the adapter in {folder} is {kind}, which has no weights to merge")
    return model


def _joined(model: Any) -> Any:
    """The base with the adapter in its weights; embeddings stay tied where they stay equal."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    writes = base.get_output_embeddings() is not None
    tied = writes and base.config.get_text_config().tie_word_embeddings
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if tied and any(isinstance(end, BaseTunerLayer) for end in ends):
        # One weight is in both places, and merging into one would change the other.
        output = ends[1].get_base_layer() if isinstance(ends[1], BaseTunerLayer) else ends[1]
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
    merged = model.merge_and_unload()
    if tied:
        read, written = merged.get_input_embeddings(), merged.get_output_embeddings()
        equal = torch.equal(read.weight, written.weight)
        merged.config.get_text_config().tie_word_embeddings = equal
        merged.tie_weights()
    return merged


def _prompts(tokenizer: Any, task: Task, file: Path | None) -> Iterator[list[int]]:
    """What both models are given: texts as they will be asked, tokens, and a file's rows."""
    causal = task is Task.CAUSAL
    renderer = make_renderer(Template.AUTO, tokenizer) if causal else None

    def encode(messages: Sequence[Message], **options: Any) -> list[int]:
        text = "\n".join(message["content"] for message in messages)
        if renderer:
            text = renderer.render(messages, **options)
        ids: list[int] = tokenizer(text, add_special_tokens=not causal).input_ids
        return ids[:PROMPT_TOKENS]

    for text in TEXTS:
        yield encode([user(text)], generation_prompt=True)
    yield [len(tokenizer) * place // VOCABULARY_TOKENS for place in range(VOCABULARY_TOKENS)]
    for row in read_rows(file, limit=FILE_PROMPTS) if file else ():
        try:
            conversation = find_format(row.values).read(row.values)
        except RowFault as fault:
            raise DatasetFormatError(f"{file}, row {row.number}: {fault}") from None
        yield encode(conversation.messages)
