"""Rows of unlike length become one batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from finetune_core.data.collate import Collator
from finetune_core.types import Task

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


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        (Task.SEQ2SEQ, [[4], [1, 2, 3]], [[4, -100, -100], [1, 2, 3]]),
        (Task.CLASSIFICATION, [[1], [0]], [[1], [0]]),
    ],
)
def test_answers_by_themselves_are_filled_up_by_themselves(task, labels, expected):
    rows = [
        {"input_ids": ids, "labels": each} for ids, each in zip([[5, 6], [7]], labels, strict=True)
    ]
    batch = Collator(SimpleNamespace(pad_token_id=0, eos_token_id=9), task)(rows)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == expected
