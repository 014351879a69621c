"""Rows of tokens → a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune_core.data.masks import IGNORED
from finetune_core.types import Task


def padding(tokenizer: Any) -> int:
    """The padding token. Where a tokenizer has none any will do: it is neither seen nor trained."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


class Collator:
    """Pads rows to the longest of a batch.

    Args:
        tokenizer: Gives the padding token.
        task: The model's.
    """

    def __init__(self, tokenizer: Any, task: Task = Task.CAUSAL) -> None:
        self._pad = padding(tokenizer)
        self._task = task

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            rows: Each with `input_ids` and `labels`.

        Returns:
            `input_ids` and `attention_mask`, (rows, longest), and `labels`, (rows, most labels of
            a row), all int64. A causal model's first token has no label: nothing leads to it.
        """
        ids = _filled([row["input_ids"] for row in rows], self._pad)
        labels = _filled([row["labels"] for row in rows], IGNORED)
        if self._task is Task.CAUSAL:
            labels[:, 0] = IGNORED
        mask = _filled([[1] * len(row["input_ids"]) for row in rows], 0)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _filled(rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    """(rows, longest), int64: filled up on the right."""
    filled = torch.full((len(rows), max(map(len, rows))), filling)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = torch.as_tensor(row)
    return filled
