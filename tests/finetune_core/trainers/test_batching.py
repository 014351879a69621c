"""The order of rows: each once, by chance, in batches of like length."""

from __future__ import annotations

import random

import pytest
import torch

from finetune_core.trainers.batching import LengthGroupedSampler

LENGTHS = random.Random(0).choices(range(5, 500), k=3000)


def order(lengths=LENGTHS, batch_size=8, seed=42, epoch=0):
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def padding(rows, batch_size):
    """The tokens that are filled up when rows are cut into batches in this order."""
    batches = [
        [LENGTHS[row] for row in rows[start : start + batch_size]]
        for start in range(0, len(rows), batch_size)
    ]
    return sum(len(batch) * max(batch) - sum(batch) for batch in batches)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 255, 256, 257, 1000])
def test_each_row_comes_once_an_epoch(rows):
    lengths = LENGTHS[:rows]
    assert sorted(order(lengths)) == list(range(rows))
    assert len(LengthGroupedSampler(lengths, 8, 42)) == rows


def test_the_order_is_that_of_the_seed_and_the_epoch_whatever_else_was_drawn():
    torch.manual_seed(1)
    first = order(epoch=3)
    torch.manual_seed(2)
    torch.rand(100)
    before = torch.random.get_rng_state()
    assert order(epoch=3) == first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_or_epoch_gives_another_order():
    assert len({tuple(order(seed=seed)) for seed in (1, 100, 1000)}) == 3
    assert len({tuple(order(epoch=epoch)) for epoch in (0, 1, 2)}) == 3


def test_an_epoch_begun_twice_has_the_same_order():
    sampler = LengthGroupedSampler(LENGTHS, 8, 42)
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize("batch_size", [4, 16])
def test_rows_of_a_batch_are_of_like_length(batch_size):
    by_chance = list(range(len(LENGTHS)))  # the lengths themselves are random
    assert padding(order(batch_size=batch_size), batch_size) < 0.2 * padding(by_chance, batch_size)


def test_batches_do_not_come_by_length():
    lengths = list(range(256))  # 32 batches of 8 neighbours
    firsts = [lengths[row] for row in order(lengths, batch_size=8)][::8]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


def test_a_batch_that_is_not_full_comes_last():
    lengths = list(range(1, 71))  # all in one pool: each batch is 16 neighbours by length
    rows = order(lengths, batch_size=16)
    batches = [sorted(lengths[row] for row in rows[at : at + 16]) for at in range(0, 70, 16)]
    assert [len(batch) for batch in batches] == [16, 16, 16, 16, 6]
    assert all(batch == list(range(batch[0], batch[0] + len(batch))) for batch in batches)
