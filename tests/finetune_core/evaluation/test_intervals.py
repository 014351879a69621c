"""Intervals: how often they hold the truth, and what they say where there is little to say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune_core.evaluation.intervals import estimate, mean


def interval(rows):
    return estimate(mean({"it": rows}), len(rows))["it"].interval


def test_nineteen_of_twenty_intervals_hold_the_mean_that_rows_are_drawn_from():
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        low, high = interval(draw.random(100) < 0.3)
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.98  # three standard errors around 95 %, a hair low as known


def test_an_interval_is_as_wide_as_the_normal_one_for_many_rows():
    rows = np.random.default_rng(1).normal(5, 2, 400)
    low, high = interval(rows)
    error = rows.std() / math.sqrt(400)
    assert low == pytest.approx(rows.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(rows.mean() + 1.96 * error, abs=0.25 * error)


def test_four_times_as_many_rows_halve_an_interval():
    draw = np.random.default_rng(2)
    wide, narrow = (np.ptp(interval(draw.random(count))) for count in (200, 800))
    assert wide / narrow == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("rows", [[0.5], [1.0] * 7, [0.0] * 7])
def test_one_row_or_equal_rows_have_an_interval_without_width(rows):
    found = estimate(mean({"it": rows}), len(rows))["it"]
    assert found == (rows[0], (rows[0], rows[0]))


def test_the_same_rows_always_have_the_same_interval():
    rows = np.random.default_rng(3).random(50)
    assert interval(rows) == interval(rows)


def test_two_models_are_resampled_alike():
    """So that a model better by the same in every row is better by it at both ends."""
    rows = np.random.default_rng(4).random(50)
    low, high = interval(rows)
    assert interval(rows + 1) == pytest.approx((low + 1, high + 1))


def test_infinite_values_have_infinite_ends():
    found = estimate(lambda weights: {"it": math.inf}, 3)["it"]
    assert found == (math.inf, (math.inf, math.inf))


def test_several_values_of_one_statistic_each_have_their_interval():
    both = estimate(mean({"one": [0.0, 1.0, 1.0], "two": [1.0, 0.0, 0.0]}), 3)
    assert both["one"].value == pytest.approx(2 / 3)
    low, high = both["one"].interval
    assert both["two"].interval == pytest.approx((1 - high, 1 - low))
