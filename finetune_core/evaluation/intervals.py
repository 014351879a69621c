"""How sure a value is: its percentile bootstrap interval over the rows (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
SEED = 42
LEVEL = 0.95

Weights = npt.NDArray[np.int64]  # how often each row counts
Statistic = Callable[[Weights], dict[str, float]]  # the values, by name, where rows count so often
Interval = tuple[float, float]


class Estimate(NamedTuple):
    """A value, and the interval in which it would lie on 95 % of such sets of rows."""

    value: float
    interval: Interval


def estimate(statistic: Statistic, rows: int) -> dict[str, Estimate]:
    """Computes values and their intervals.

    The draws depend on the number of rows alone, so two models are resampled alike. Rows that
    are all equal give an interval without width: the rows know nothing of how others would be.

    Args:
        statistic: Computes the values from how often each row counts.
        rows: How many there are, one or more.
    """
    values = statistic(np.ones(rows, dtype=np.int64))
    draw = np.random.default_rng(SEED)
    resampled = [
        statistic(np.bincount(draw.integers(rows, size=rows), minlength=rows))
        for _ in range(RESAMPLES)
    ]
    ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    estimates = {}
    for name, value in values.items():
        # One of the drawn values, not one between two: an infinite perplexity has none.
        low, high = np.quantile([drawn[name] for drawn in resampled], ends, method="nearest")
        estimates[name] = Estimate(value, (float(low), float(high)))
    return estimates


CHANGE = "change"
"""What `compare` calls the values of the last model, less those of the first."""


def compare(statistics: Mapping[str, Statistic], rows: int) -> dict[str, dict[str, Estimate]]:
    """Computes the values of several models on the same rows, and `change`.

    The change is computed on the same resamples as the values that it is between, so it is surer
    than they are: what makes a row hard for one model mostly does so for the other.

    Args:
        statistics: Each model's, by its name.
        rows: How many there are, one or more.

    Returns:
        Model → name of the value → estimate.
    """
    first, last = next(iter(statistics)), list(statistics)[-1]

    def together(weights: Weights) -> dict[str, float]:
        found = {model: statistic(weights) for model, statistic in statistics.items()}
        found[CHANGE] = {name: found[last][name] - value for name, value in found[first].items()}
        return {f"{model} {name}": v for model, each in found.items() for name, v in each.items()}

    compared: dict[str, dict[str, Estimate]] = {}
    for key, each in estimate(together, rows).items():
        model, _, name = key.partition(" ")
        compared.setdefault(model, {})[name] = each
    return compared


def mean(columns: Mapping[str, Sequence[float]]) -> Statistic:
    """The statistic of values that are means over the rows.

    Args:
        columns: Each name's value of each row.
    """
    rows = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns.values()])

    def statistic(weights: Weights) -> dict[str, float]:
        means = weights @ rows / weights.sum()
        return dict(zip(columns, means.tolist(), strict=True))

    return statistic


def values(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """The values alone."""
    return {name: each.value for name, each in estimates.items()}


def intervals(estimates: Mapping[str, Estimate]) -> dict[str, Interval]:
    """The intervals alone."""
    return {name: each.interval for name, each in estimates.items()}
