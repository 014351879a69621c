"""Probe: some real training steps, for what they take of memory and time."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import peft  # noqa: F401 - imported now, so that it is not taken for memory of the training
import psutil  # type: ignore[import-untyped]
import torch
from accelerate.utils import (
    find_executable_batch_size,
)

from finetune_core.config import PipelineConfig
from finetune_core.config.sections import rows_a_step
from finetune_core.exceptions import TrainingError
from finetune_core.models.loading import bf16_on_gpu
from finetune_core.models.sizing import MOST_ROWS, largest_batch, micro_batch
from finetune_core.trainers.kernels import use_kernels
from finetune_core.trainers.methods import METHODS, micro_batch_size
from finetune_core.types import Record

TRIES = 3  # of a timed step


class Measured(Record):
    """What was measured.

    Attributes:
        micro_batch_size: Rows at once.
        memory_bytes: Of the GPU; on a CPU, what the process grew by.
        step_seconds: Of an optimizer step, all of its micro-batches.
        largest_batch: The largest power of two rows that fits.
    """

    micro_batch_size: int
    memory_bytes: int
    step_seconds: float
    largest_batch: int


def probe(config: PipelineConfig, longest: int, mean: int, free: int) -> Measured:
    """Trains some steps on rows of random tokens.

    Args:
        config: How; its micro-batch is tried on a CPU, on a GPU the largest is found.
        longest: The tokens of the longest row, by which memory is measured.
        mean: The tokens of a row, by which time is measured.
        free: The bytes that may be used.

    Raises:
        TrainingError: Not even one row fits the GPU.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_per_process_memory_fraction(free / torch.cuda.mem_get_info()[1])
    before = psutil.Process().memory_info().rss
    steps = _Steps(config, longest)

    def peak(rows: int) -> int:
        """The most memory there was, once so many of the longest rows were trained on."""
        steps.train(rows, longest)
        if gpu:
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - int(before)

    batch = rows_a_step(config.training)
    if gpu:
        largest = _largest_on_gpu(peak)
        micro = micro_batch(batch, largest)
        torch.cuda.reset_peak_memory_stats()
        memory = peak(micro)
    else:
        tried = micro_batch_size(config.training)
        one = peak(1)
        memory = peak(tried)
        each = (memory - one) / max(tried - 1, 1)
        largest = largest_batch(lambda rows: one + (rows - 1) * each, free) if tried > 1 else 1
        micro = micro_batch(batch, largest)
        memory = min(memory, int(one + (micro - 1) * each))
    return Measured(
        micro_batch_size=micro,
        memory_bytes=memory,
        step_seconds=steps.seconds(micro, mean, batch // micro),
        largest_batch=largest,
    )


class _Steps:
    """A model that takes training steps as the engine takes them, on rows that mean nothing."""

    def __init__(self, config: PipelineConfig, longest: int) -> None:
        training = config.training
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        method = METHODS[training.method]
        model = method.prepare(method.load(config.model), config.lora)
        model.config.use_cache = False
        if training.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self._kernels = use_kernels(model, longest)
        self._model = model.to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], fused=True
        )

    def train(self, rows: int, length: int) -> None:
        """Takes one step."""
        self._backward(rows, length)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def seconds(self, rows: int, length: int, parts: int) -> float:
        """The time of a step of several micro-batches, of some tries the shortest."""
        self.train(rows, length)  # the first of a size takes longer
        return min(self._timed_step(rows, length, parts) for _ in range(TRIES))

    def _timed_step(self, rows: int, length: int, parts: int) -> float:
        with _timed(self._device) as backward:
            self._backward(rows, length)
        with _timed(self._device) as update:
            self._optimizer.step()
            self._optimizer.zero_grad()
        return parts * backward() + update()

    def _backward(self, rows: int, length: int) -> None:
        ids = torch.randint(self._model.config.get_text_config().vocab_size, (rows, length))
        ids = ids.to(self._device)
        with torch.autocast(self._device, torch.bfloat16, enabled=bf16_on_gpu()):
            loss = self._loss(ids)
        loss.backward()

    def _loss(self, ids: torch.Tensor) -> Any:
        head = self._kernels.head
        if head is None:
            return self._model(input_ids=ids, labels=ids).loss
        with head.summing(ids):
            return self._model(input_ids=ids).logits.sum() / ids.numel()


def _largest_on_gpu(peak: Callable[[int], int]) -> int:
    rows = 2 * MOST_ROWS

    def halve() -> int:
        nonlocal rows
        rows //= 2
        return rows

    @find_executable_batch_size(starting_batch_size=halve(), reduce_batch_size_fn=halve)  # type: ignore[untyped-decorator]
    def fits(batch_size: int) -> int:
        peak(batch_size)
        return batch_size

    try:
        found: int = fits()
    except RuntimeError as error:
        raise TrainingError(f"not even one row fits the GPU: {error}") from error
    return found


@contextmanager
def _timed(device: str) -> Iterator[Callable[[], float]]:
    """Gives a function that tells, behind the block, how many seconds it took."""
    times = [perf_counter()]
    yield lambda: times[1] - times[0]
    if device == "cuda":
        torch.cuda.synchronize()
    times.append(perf_counter())
