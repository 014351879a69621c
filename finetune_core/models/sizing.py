"""Sizing: what a training costs in memory and time, estimated from the model's shape alone.

`finetune_core.models.probing` measures the same on real steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from finetune_core.exceptions import ModelLoadError
from finetune_core.types import Record

MOST_ROWS = 256
SPARE = 0.9  # of the free memory is used; the rest is for what fragments and what else runs
QLORA_BITS = 4.127  # a weight, with its part of the factors that are quantised too
UTILISATION = 0.4  # of the speed of large products, as in PaLM's training (arXiv 2204.02311, 4.1)


class Plan(Record):
    """How to train: the method, and of LoRA the rank."""

    method: str
    lora_rank: int | None = None
    gradient_checkpointing: bool = False


class Shape(Record):
    """What of a model decides its cost.

    Attributes:
        parameters: All of them; tied ones count once.
        linear: Those in the blocks' linear layers, which adapters tune and 4 bits hold.
        inputs: The numbers that go into these layers for one token, all layers together.
        outputs: Those that come out.
        layers: The blocks.
        heads: The attention heads of a block.
        width: The numbers of the hidden state.
        positions: The tokens that the model can read.
    """

    parameters: int
    linear: int
    inputs: int
    outputs: int
    layers: int
    heads: int
    width: int
    positions: int


class Memory(Record):
    """Bytes that a training step takes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations


class Cost(Record):
    """What a training takes; `largest_batch` is 0 where not even one row fits."""

    memory_bytes: int
    step_seconds: float | None
    total_seconds: float | None
    largest_batch: int


def read_shape(folder: Path) -> Shape:
    """Reads a model's shape from its config: the model is built without any weights.

    Raises:
        ModelLoadError: The config is not that of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except Exception as error:  # transformers raises whatever the files make it stumble over
        raise ModelLoadError(f"{folder} is no causal language model: {error}") from error
    head = model.get_output_embeddings()
    weights = [
        part.weight.t() if isinstance(part, Conv1D) else part.weight
        for part in model.modules()
        if isinstance(part, (torch.nn.Linear, Conv1D)) and part is not head
    ]
    text = model.config.get_text_config()
    return Shape(
        parameters=model.num_parameters(),
        linear=sum(weight.numel() for weight in weights),
        inputs=sum(weight.shape[1] for weight in weights),
        outputs=sum(weight.shape[0] for weight in weights),
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        width=text.hidden_size,
        positions=text.max_position_embeddings,
    )


def estimate(shape: Shape, plan: Plan, *, rows: int, length: int, gpu: bool) -> Memory:
    """Estimates what a training step takes at its peak.

    Weights, gradients and Adam's two moments are as ZeRO counts them (arXiv 1910.02054, 3.1): of
    32 bits where they are trained, while a frozen base has 16 on a GPU, or 4 with their factors
    (arXiv 2305.14314, 3). Activations: what goes into and comes out of the linear layers, which
    for GPT is 16 numbers of the 17 a token, block and width that arXiv 2205.05198 counts in
    eq. 1, and holds for gated blocks too; what is around them is 4 more where norms are not fused.
    With checkpointing there are each block's input and one block. Only the CPU has attention
    weights, and their gradient, and nothing keeps the logits (`trainers.kernels`).

    Args:
        shape: The model's.
        plan: How it is trained.
        rows: Rows at once.
        length: Tokens of each.
        gpu: Whether it is trained on one.
    """
    number = 2 if gpu else 4  # bytes of what is computed, and of a frozen base
    block = (shape.inputs + shape.outputs + 4 * shape.layers * shape.width) * number
    if not gpu:
        block += 2 * shape.layers * shape.heads * length * number
    if plan.lora_rank:
        trained = plan.lora_rank * (shape.inputs + shape.outputs)
        bits = QLORA_BITS if plan.method == "qlora" else 8 * number
        frozen = shape.linear * bits / 8 + (shape.parameters - shape.linear) * number
        block += shape.inputs * (number + 1)  # behind the adapter's dropout, and its mask
    else:
        trained, frozen = shape.parameters, 0
    if plan.gradient_checkpointing:
        block = block // shape.layers + shape.layers * shape.width * number
    return Memory(
        weights=int(frozen) + 4 * trained,
        gradients=4 * trained,
        optimizer=8 * trained,
        activations=rows * length * block,
    )


def estimate_seconds(shape: Shape, plan: Plan, *, tokens: int, gpu: bool) -> float:
    """Estimates how long an optimizer step of so many tokens takes on this machine."""
    work = tokens * _operations(shape, plan)
    return work / (UTILISATION * _products_per_second(gpu))


def largest_batch(memory: Callable[[int], float], free: int) -> int:
    """The largest power of two rows that fit, or 0 where not even one does.

    Args:
        memory: The bytes that so many rows take.
        free: The bytes there are.
    """
    sizes = (1 << power for power in range(MOST_ROWS.bit_length()))
    return max((size for size in sizes if memory(size) <= SPARE * free), default=0)


def micro_batch(batch: int, largest: int) -> int:
    """Rows at once: of the powers of two that fit, the largest that divides the batch."""
    sizes = (1 << power for power in range(max(largest, 1).bit_length()))
    return max(size for size in sizes if batch % size == 0)


def _operations(shape: Shape, plan: Plan) -> int:
    """Floating point operations for a token (arXiv 2001.08361, 2.1).

    Two a weight forward, two for the gradient of what goes in, two for the gradient of weights
    that are trained, and the forward ones again with checkpointing.
    """
    passes = 2 + (plan.lora_rank is None) + plan.gradient_checkpointing
    return 2 * passes * shape.parameters


def _products_per_second(gpu: bool) -> float:
    """Floating point operations a second of a large product of matrices on this device."""
    import torch
    from torch.utils.benchmark import Timer

    size = 8192 if gpu else 1024
    device, dtype = ("cuda", "bfloat16") if gpu else ("cpu", "float32")
    timer = Timer(
        "a @ a",
        setup=f"a = torch.rand({size}, {size}, device={device!r}, dtype=torch.{dtype})",
        num_threads=torch.get_num_threads(),
    )
    return 2 * size**3 / timer.blocked_autorange(min_run_time=0.2).median
