"""The order of rows in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from finetune_core.data.masks import IGNORED

POOL_BATCHES = 32  # batches whose rows are sorted together: little padding, yet much chance


class LengthGroupedSampler(Sampler[int]):
    """Rows in random order, but rows of like length in one batch.

    The order depends on the seed and the epoch alone, not on the state of any generator, so a
    resumed epoch goes on in the order in which it began.

    Args:
        lengths: The tokens of each row.
        batch_size: Rows a batch.
        seed: Decides the order, together with the epoch.
        multiple: What the number of rows is filled up to a multiple of, by numbers that no row has:
            so that each of several processes has as many.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, multiple: int = 1
    ) -> None:
        self._lengths = torch.as_tensor(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._filled = math.ceil(len(lengths) / multiple) * multiple

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._filled

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(self._seed + self._epoch)
        rows = torch.randperm(len(self._lengths), generator=random)
        batches: list[torch.Tensor] = []
        for pool in torch.split(rows, POOL_BATCHES * self._batch_size):
            by_length = pool[self._lengths[pool].argsort(descending=True, stable=True)]
            batches += torch.split(by_length, self._batch_size)
        # A batch that is not full must come last: the loader cuts the sequence into equal parts.
        full = [batch for batch in batches if len(batch) == self._batch_size]
        rest = [batch for batch in batches if len(batch) < self._batch_size]
        order = torch.randperm(len(full), generator=random).tolist()
        # The longest first: if memory does not suffice, it is known at once, and if it does, no
        # later step waits for more of it.
        longest = _longest(full, self._lengths) if full else None
        order.sort(key=lambda index: index != longest)
        for index in order:
            yield from full[index].tolist()
        for batch in rest:
            yield from batch.tolist()
        yield from range(len(self._lengths), self._filled)


class WithBlanks(Dataset[dict[str, Any]]):
    """Rows, and behind the last one as many blank ones as are asked for, which train nothing.

    Args:
        rows: As `TOKENS_SCHEMA`.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number < len(self._rows):
            row: dict[str, Any] = self._rows[number]
            return row
        return {"input_ids": self._rows[0]["input_ids"][:1], "labels": [IGNORED]}


def _longest(batches: list[torch.Tensor], lengths: torch.Tensor) -> int:
    """The place of the batch that has the longest row."""
    return max(range(len(batches)), key=lambda index: int(lengths[batches[index]].max()))
