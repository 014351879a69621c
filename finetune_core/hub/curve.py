"""The loss curve as a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from finetune_core.child import Event


def draw_curve(events: Iterable[Event], path: Path) -> None:
    """Draws training and validation loss over the steps.

    Args:
        events: The events of a training.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    series: dict[str, dict[int, float]] = {"train_loss": {}, "valid_loss": {}}
    for event in events:
        for name, points in series.items():
            if name in event:
                points[event["step"]] = event[name]  # a step done again after a kill counts once
    for (name, points), marker in zip(series.items(), ("", "o"), strict=True):
        axes.plot(list(points), list(points.values()), label=name, marker=marker)
    axes.set(xlabel="step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
