"""The trials of a sweep as a picture: one line each, through its values to its metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from finetune_core.sweep.config import Scalar
from finetune_core.sweep.space import Goal
from finetune_core.sweep.study import State
from finetune_core.sweep.trials import TrialRecord

TICKS = 5
DECADE = 10.0  # numbers that lie so far apart are shown by their logarithms
APART = 0.04  # of an axis, between what is written at two of its places
CUT = 0.25  # so far from the metric's axis ends the line of a trial that was stopped


def draw_trials(records: Sequence[TrialRecord], goal: Goal, path: Path) -> None:
    """Draws parallel coordinates: an axis a field, the last the metric, which also colours.

    A trial that was stopped is dashed and ends before the last axis; one that has failed is not
    there.

    Args:
        records: The trials.
        goal: What makes one the best: it is drawn thick.
        path: The PNG file to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = [each for each in records if each.state in (State.COMPLETED, State.PRUNED)]
    values = {each.number: each.value for each in shown if each.value is not None}
    best = goal.best(values)
    names = list(shown[0].values)
    axes_of = [_Axis([each.values[name] for each in shown]) for name in names]
    last = _Axis(list(values.values()))
    figure = Figure(figsize=(max(6.0, 1.9 * (len(names) + 1)), 4.5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"]
    for each in sorted(shown, key=lambda each: each.number == best):  # the best one on top
        points = [axis.place(each.values[name]) for axis, name in zip(axes_of, names, strict=True)]
        places = [float(place) for place in range(len(names))]
        style: dict[str, Any] = {"color": "0.6", "linestyle": "--", "linewidth": 1.0}
        if each.value is not None:
            height = last.place(each.value)
            points.append(height)
            places.append(float(len(names)))
            shade = height if goal.lower else 1 - height
            style = {
                "color": colours(0.9 * shade),
                "linewidth": 3.5 if each.number == best else 1.4,
            }
        else:
            points.append(points[-1])
            places.append(len(names) - CUT - 0.5)
        axes.plot(places, points, **style)
    for place, axis in enumerate([*axes_of, last]):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, label in axis.ticks():
            axes.annotate(
                label,
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )
    axes.set_xticks(range(len(names) + 1), [*names, goal.metric])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) + 0.35)
    axes.set_ylim(-0.06, 1.06)
    for side in axes.spines.values():
        side.set_visible(False)
    pruned = len(shown) - len(values)
    below = f", {pruned} stopped early (dashed)" if pruned else ""
    axes.set_title(f"{len(values)} trials measured{below}; the best is thick", fontsize=10)
    figure.savefig(path, dpi=120)


class _Axis:
    """Where values lie on an axis from 0 to 1: numbers by their size, others by their order."""

    def __init__(self, values: Sequence[Scalar]) -> None:
        numbers = sorted({float(each) for each in values if _is_number(each)})
        self._names: list[Scalar] = []
        if any(not _is_number(each) for each in values):
            self._names = list(dict.fromkeys(values))
            numbers = [0.0, float(max(len(self._names) - 1, 1))]
        self._numbers = numbers or [0.0, 1.0]
        low, high = self._numbers[0], self._numbers[-1]
        self._log = low > 0 and high / low >= DECADE
        self._low, self._high = self._scaled(low), self._scaled(high)

    def place(self, value: Scalar) -> float:
        """Where a value lies; in the middle where there is only one."""
        number = self._names.index(value) if self._names else self._scaled(float(value or 0))
        if self._high == self._low or len(self._names) == 1:
            return 0.5
        return (number - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, str]]:
        """What is written at the axis, and where."""
        if self._names:
            return [(self.place(each), str(each)) for each in self._names]
        chosen = self._numbers
        if len(chosen) > TICKS:
            span = (self._high - self._low) / (TICKS - 1)
            scaled = [self._low + span * tick for tick in range(TICKS)]
            chosen = [10**each if self._log else each for each in scaled]
        # The ends first: what would be written over another is left out.
        ordered = [chosen[-1], *chosen[:-1]]
        kept: dict[float, str] = {}
        for each in ordered:
            place = self.place(each)
            if all(abs(place - other) >= APART for other in kept):
                kept[place] = f"{each:.4g}"
        return list(kept.items())

    def _scaled(self, number: float) -> float:
        return math.log10(number) if self._log else number


def _is_number(value: Scalar) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
