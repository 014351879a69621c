"""Recommend: how a model is best trained in the memory there is, and what that costs.

The settings are a table's. Their cost is estimated from the model's shape, without its weights,
and measured where the hardware is at hand: by `finetune_core.models.probing`, on real steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune_core.child import Emit
from finetune_core.config import PipelineConfig
from finetune_core.config.defaults import default
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import InputError, ModelLoadError
from finetune_core.models.source import find_model
from finetune_core.models.tasks import find_task
from finetune_core.types import Record, Task

GB = 1e9
PLACEHOLDER = "train.jsonl"  # in a config where no dataset was given
LENGTH = 512  # tokens of a row, where no dataset tells
SMALL = 100e6  # parameters up to which a CPU measures without being asked
MOST_ROWS = 256
SPARE = 0.9  # of the free memory is used; the rest is for what fragments and what else runs
QLORA_BITS = 4.127  # a weight, with its part of the factors that are quantised too
UTILISATION = 0.4  # of the speed of large products, as in PaLM's training (arXiv 2204.02311, 4.1)


class Plan(Record):
    """How to train: the method, and of LoRA the rank."""

    method: str
    lora_rank: int | None = None
    gradient_checkpointing: bool = False


class Rule(NamedTuple):
    """For models of more than so many parameters, where there is at least so much memory."""

    parameters: float
    memory_gb: float
    plan: Plan


TABLE = (
    Rule(7e9, 0, Plan(method="qlora", lora_rank=16, gradient_checkpointing=True)),
    Rule(1e9, 16, Plan(method="lora", lora_rank=16)),
    Rule(1e9, 0, Plan(method="qlora", lora_rank=8, gradient_checkpointing=True)),
    Rule(300e6, 8, Plan(method="lora", lora_rank=8)),
    Rule(300e6, 0, Plan(method="lora", lora_rank=4)),
    Rule(0, 4, Plan(method="lora", lora_rank=8)),
    Rule(0, 0, Plan(method="full_finetuning")),
)


class Rows(Record):
    """The rows that are trained on; `longest` and `mean` are their tokens."""

    count: int | None
    longest: int
    mean: int


class RecommendRequest(Record):
    """What a recommendation is asked.

    Attributes:
        model: The base.
        dataset: The training file, for the config.
        rows: What is known of its rows; nothing where no dataset was given.
        memory_gb: The memory to train in; without it, the device's own.
        measure: Whether to measure; without it, on a GPU and with small models.
    """

    model: ModelConfig
    dataset: str | None = None
    rows: Rows | None = None
    memory_gb: float | None = None
    measure: bool | None = None


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


class Machine(Record):
    """Where the training is to run; `here` says whether that is this machine."""

    device: str
    gpu: bool
    here: bool
    memory_gb: float
    free: int


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


class Recommendation(Record):
    """The settings, what they cost, and the config that says so."""

    model: str
    parameters: int
    machine: Machine
    plan: Plan
    rows: Rows
    batch_size: int
    micro_batch_size: int
    epochs: int
    steps: int | None
    memory: Memory
    estimate: Cost
    measured: Cost | None
    not_measured: str | None
    config: dict[str, Any]


def choose(parameters: int, memory_gb: float) -> Plan:
    """The settings for a model of a size: the first rule of the table that fits."""
    return next(
        rule.plan for rule in TABLE if parameters > rule.parameters and memory_gb >= rule.memory_gb
    )


def recommend(request: RecommendRequest, emit: Emit) -> Recommendation:
    """Chooses, estimates, and measures where that is wanted and can be.

    Raises:
        ModelNotFoundError: There is no such model.
        InputError: Its task is another than to write on.
        ModelLoadError: It is no causal language model.
    """
    if (task := find_task(request.model)) is not Task.CAUSAL:
        raise InputError(
            f"{request.model.name} is a model for {task.value}, and what these cost is not known",
            hint="recommend is for causal models; `finetune-cli train` trains this one as it is.",
        )
    shape = read_shape(find_model(request.model))
    machine = _find_machine(request)
    plan = choose(shape.parameters, machine.memory_gb)
    length = min(LENGTH, shape.positions)
    rows = request.rows or Rows(count=None, longest=length, mean=length)
    batch, epochs = int(default("training.auto_batch_size")), int(default("training.epochs"))
    steps = math.ceil(rows.count / batch) * epochs if rows.count else None

    def memory(count: int) -> Memory:
        return estimate(shape, plan, rows=count, length=rows.longest, gpu=machine.gpu)

    def cost(memory_bytes: int, step_seconds: float | None, largest: int) -> Cost:
        total = steps * step_seconds if steps and step_seconds else None
        return Cost(
            memory_bytes=memory_bytes,
            step_seconds=step_seconds,
            total_seconds=total,
            largest_batch=largest,
        )

    largest = largest_batch(lambda count: memory(count).total, machine.free)
    micro = micro_batch(batch, largest)
    config = _config(request, shape, plan, batch, micro)
    seconds = None
    if machine.here:
        work = batch * rows.mean * _operations(shape, plan)
        seconds = work / (UTILISATION * _products_per_second(machine.gpu))
    estimated = cost(memory(micro).total, seconds, largest)
    measured, reason = None, _why_not(request, machine, shape)
    if reason is None:
        from finetune_core.models.probing import probe

        emit({"type": "progress", "done": 0, "total": 1})
        found = probe(PipelineConfig.parse(config), rows.longest, rows.mean, machine.free)
        emit({"type": "progress", "done": 1, "total": 1})
        measured = cost(found.memory_bytes, found.step_seconds, found.largest_batch)
        micro = found.micro_batch_size
        config = _config(request, shape, plan, batch, micro)
    return Recommendation(
        model=request.model.name,
        parameters=shape.parameters,
        machine=machine,
        plan=plan,
        rows=rows,
        batch_size=batch,
        micro_batch_size=micro,
        epochs=epochs,
        steps=steps,
        memory=memory(micro),
        estimate=estimated,
        measured=measured,
        not_measured=reason,
        config=config,
    )


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


def _config(
    request: RecommendRequest, shape: Shape, plan: Plan, batch: int, micro: int
) -> dict[str, Any]:
    """The sections that differ from the defaults, as `train` takes them."""
    model: dict[str, Any] = {"name": request.model.name}
    if request.model.revision:
        model["revision"] = request.model.revision
    if plan.method == "qlora":
        model["quantization_bits"] = 4
    config: dict[str, Any] = {
        "model": model,
        "dataset": {"path": request.dataset or PLACEHOLDER},
        "training": {
            "method": plan.method,
            "batch_size": batch,
            "micro_batch_size": micro,
            "gradient_checkpointing": plan.gradient_checkpointing,
        },
    }
    if shape.positions < default("tokenization.max_length"):
        config["tokenization"] = {"max_length": shape.positions}
    if plan.lora_rank:
        config["lora"] = {"lora_rank": plan.lora_rank, "lora_alpha": 2 * plan.lora_rank}
    return config


def _find_machine(request: RecommendRequest) -> Machine:
    """The GPU that is there, else one of the memory that was named, else this machine's CPU."""
    import psutil  # type: ignore[import-untyped]
    import torch

    given = request.memory_gb
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name, gpu, here = torch.cuda.get_device_name(), True, True
    elif given is None or request.measure:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        name, gpu, here = "cpu", False, True
    else:
        free = total = int(given * GB)
        name, gpu, here = "a GPU", True, False
    return Machine(
        device=name,
        gpu=gpu,
        here=here,
        memory_gb=total / GB if given is None else given,
        free=free if given is None else min(free, int(given * GB)),
    )


def _why_not(request: RecommendRequest, machine: Machine, shape: Shape) -> str | None:
    """Why nothing is measured; nothing where it is."""
    if not machine.here:
        return "there is no GPU here"
    if request.measure is False:
        return "it was not asked for"
    if request.measure is None and not machine.gpu and shape.parameters >= SMALL:
        return "on a CPU it would take long; --measure does it all the same"
    return None


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
