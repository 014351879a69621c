"""Rows of tokens → a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune_core.data.masks import IGNORED


class Collator:
    """Pads rows to the longest of a batch.

    Args:
        tokenizer: Gives the padding token. Where it has none any will do, for what is filled
            up is neither attended to nor trained.
    """

    def __init__(self, tokenizer: Any) -> None:
        pad = tokenizer.pad_token_id
        self._pad: int = tokenizer.eos_token_id if pad is None else pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            rows: Each with `input_ids` and `labels`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64, each of shape (rows, longest). A
            first token has no label: nothing leads to it.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self._pad)
        labels = torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.int64)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[index, :length] = torch.as_tensor(row["input_ids"])
            labels[index, 1:length] = torch.as_tensor(row["labels"][1:])
            mask[index, :length] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
