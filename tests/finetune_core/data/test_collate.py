"""Rows of unlike length become one batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from finetune_core.data.collate import Collator

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "row": 1},
    {"input_ids": [8], "labels": [8], "row": 2},
]


@pytest.mark.parametrize(("pad", "filler"), [(0, 0), (3, 3), (None, 9)])
def test_short_rows_are_filled_up_on_the_right(pad, filler):
    batch = Collator(SimpleNamespace(pad_token_id=pad, eos_token_id=9))(ROWS)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, filler, filler]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [-100, -100, -100]],  # nothing leads to a first token
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
