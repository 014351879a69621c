"""Recommend: how a model is best trained in the memory there is, and the config that says so.

The settings are a table's; their cost is `sizing`'s, and `probing`'s where it can be measured.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from finetune_core.child import Emit
from finetune_core.config import PipelineConfig
from finetune_core.config.defaults import default
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import InputError
from finetune_core.models.sizing import (
    Cost,
    Memory,
    Plan,
    Shape,
    estimate,
    estimate_seconds,
    largest_batch,
    micro_batch,
    read_shape,
)
from finetune_core.models.source import find_model
from finetune_core.models.tasks import find_task
from finetune_core.types import Record, Task

GB = 1e9
PLACEHOLDER = "train.jsonl"  # in a config where no dataset was given
LENGTH = 512  # tokens of a row, where no dataset tells
SMALL = 100e6  # parameters up to which a CPU measures without being asked


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


class Machine(Record):
    """Where the training is to run; `here` says whether that is this machine."""

    device: str
    gpu: bool
    here: bool
    memory_gb: float
    free: int


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
        seconds = estimate_seconds(shape, plan, tokens=batch * rows.mean, gpu=machine.gpu)
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
