"""Loss and accuracy against a plain computation, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from finetune_core.evaluation.token_score import TokenScore, score, token_sums
from finetune_core.types import Task

# 2 rows of 4 tokens over a vocabulary of 3; what stands at a place predicts the next place.
LOGITS = [
    [[0.0, 1.0, 2.0], [3.0, 0.5, 0.0], [0.5, 0.0, 0.0], [9.0, 9.0, 9.0]],
    [[1.0, 1.5, 0.0], [0.0, 0.0, 4.0], [2.0, 0.0, 1.0], [9.0, 9.0, 9.0]],
]
LABELS = [[-100, -100, 0, 1], [-100, 1, 0, -100]]


def surprise(logits, token):
    """The negative log of the softmax, in nats."""
    return math.log(sum(math.exp(value) for value in logits)) - logits[token]


FIRST = surprise(LOGITS[0][1], 0) + surprise(LOGITS[0][2], 1)
SECOND = surprise(LOGITS[1][0], 1) + surprise(LOGITS[1][1], 0)


def test_the_sums_of_each_row_are_over_its_trained_tokens():
    sums = token_sums(torch.tensor(LOGITS), torch.tensor(LABELS)).tolist()
    # In both rows the first trained token is the most likely one, and the second is not.
    assert sums == [pytest.approx([FIRST, 1, 2]), pytest.approx([SECOND, 1, 2])]


def test_an_answer_by_itself_is_foretold_at_its_own_places():
    labels = torch.tensor([[2, 0, -100, -100], [1, -100, -100, -100]])
    sums = token_sums(torch.tensor(LOGITS), labels, Task.SEQ2SEQ).tolist()
    first = surprise(LOGITS[0][0], 2) + surprise(LOGITS[0][1], 0)
    assert sums == [pytest.approx([first, 2, 2]), pytest.approx([surprise(LOGITS[1][0], 1), 1, 1])]


def test_a_chosen_label_counts_as_one():
    logits, labels = torch.tensor([LOGITS[0][0], LOGITS[1][0]]), torch.tensor([[1], [1]])
    sums = token_sums(logits, labels, Task.CLASSIFICATION).tolist()
    expected = [[surprise(LOGITS[0][0], 1), 0, 1], [surprise(LOGITS[1][0], 1), 1, 1]]
    assert sums == [pytest.approx(row) for row in expected]


def test_the_score_counts_every_token_the_same():
    total = score(torch.tensor([[3.0, 1, 1], [1.0, 2, 3]]))
    assert total == TokenScore(loss=1.0, accuracy=0.75, tokens=4)
    assert total.perplexity == pytest.approx(math.e)


def test_batches_add_up_to_the_whole():
    logits, labels = torch.tensor(LOGITS), torch.tensor(LABELS)
    parts = torch.cat([token_sums(logits[:1], labels[:1]), token_sums(logits[1:], labels[1:])])
    assert score(parts).loss == pytest.approx((FIRST + SECOND) / 4)
    assert score(parts) == score(token_sums(logits, labels))


def test_padding_changes_nothing():
    logits = torch.cat([torch.tensor(LOGITS), torch.full((2, 3, 3), 7.0)], dim=1)
    labels = torch.cat([torch.tensor(LABELS), torch.full((2, 3), -100)], dim=1)
    expected = token_sums(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert torch.equal(token_sums(logits, labels), expected)


def test_a_row_without_a_trained_token_counts_nothing():
    labels = torch.tensor([LABELS[0], [-100] * 4])
    assert token_sums(torch.tensor(LOGITS), labels)[1].tolist() == [0, 0, 0]


def test_weights_of_half_precision_are_summed_in_full():
    logits = torch.zeros(1, 5001, 2, dtype=torch.bfloat16)
    labels = torch.zeros(1, 5001, dtype=torch.int64)
    assert score(token_sums(logits, labels)).loss == pytest.approx(math.log(2), rel=1e-6)


def test_a_loss_beyond_floats_has_an_infinite_perplexity():
    assert TokenScore(loss=1e4, accuracy=0.0, tokens=1).perplexity == math.inf
