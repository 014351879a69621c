"""How far a job's training is, told from the events that the training writes."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

from finetune_core.child import EventFile, files
from finetune_service.jobs.lines import backwards

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
NAMES = {
    "train_loss": "train_loss",
    "train_token_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_token_accuracy": "valid_mean_token_accuracy",
}
RECENT = 50  # the steps by which the speed is told


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        step: The steps done.
        total_steps: Those that it has.
        ends: When the last one will be done at the speed of late, in seconds since 1970; nothing
            when it is done.
    """

    step: int
    total_steps: int
    ends: float | None

    @property
    def share(self) -> float:
        """The part of the steps that is done, from 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


def training_events(folder: Path) -> Path:
    """The file of a job's training events."""
    return files(folder / "logs", "train").events


def progress(folder: Path) -> Progress | None:
    """How far a job's training is; nothing before it has begun."""
    steps: list[dict[str, Any]] = []
    for _, event in backwards(training_events(folder)):
        if event.get("type") == "began":
            steps.append(event)
            break
        if event.get("type") == "step":
            steps.append(event)
        if len(steps) == RECENT:
            break
    if not steps:
        return None
    last, first = steps[0], steps[-1]
    ends = None
    done, left = last["step"] - first["step"], last["total_steps"] - last["step"]
    if done and left:
        seconds = (last["time"] - first["time"]) / done
        ends = last["time"] + seconds * left
    return Progress(last["step"], last["total_steps"], ends)


def step_metrics(folder: Path) -> list[dict[str, float | int]]:
    """What was measured at each step, in the contract's names.

    A step that was done again, after a kill, counts as it was done last.
    """
    found: dict[int, dict[str, float | int]] = {}
    for event, _ in EventFile(training_events(folder)).read():
        measured = {
            name: event[ours]
            for ours, name in NAMES.items()
            if isinstance(event.get(ours), (int, float)) and math.isfinite(event[ours])
        }
        if measured:
            found.setdefault(event["step"], {"step": event["step"]}).update(measured)
    return [found[step] for step in sorted(found)]


def results_table(metrics: list[dict[str, float | int]]) -> bytes:
    """A job's result file: a CSV row a step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(metrics)
    return text.getvalue().encode()
