"""What must be true of a job, whatever was done to it: told from the traces that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from finetune_service.jobs.states import FINAL

TOLERANCE_SECONDS = 1.0  # between two writers' times and their writes
ENDS = [status.value for status in FINAL]

Events = Sequence[dict[str, Any]]


def faults_in_events(events: Events) -> list[str]:
    """What is wrong with the order of a job's events."""
    names = [event["name"] for event in events]
    found = [
        f"{after['name']} was told {before['time'] - after['time']:.1f} s before {before['name']}, "
        "which stands before it"
        for before, after in pairwise(events)
        if after["time"] < before["time"] - TOLERANCE_SECONDS
    ]
    if names[:1] != ["created"]:
        found.append(f"its first event is {names[:1]}")
    if names.count("began") > 1:
        found.append(f"it began {names.count('began')} times")
    if "step" in names and "began" not in names[: names.index("step")]:
        found.append("it trained before it began")
    ends = [name for name in names if name in ENDS]
    if len(ends) > 1:
        found.append(f"it ended {len(ends)} times: {ends}")
    elif ends and names[-1] not in ENDS:
        found.append(f"behind its end: {names[names.index(ends[0]) + 1 :]}")
    return found


def faults_in_steps(trained: Events) -> list[str]:
    """What is wrong with the steps that a job's trainers have told of.

    Each goes on from the last checkpoint, and then does one step after the other.
    """
    found = []
    last: int | None = None
    saved = highest = 0
    for event in trained:
        kind, step = event["type"], event.get("step", 0)
        if kind == "began":
            if not saved <= step <= highest:
                found.append(f"it went on from step {step}; {saved} is saved, {highest} done")
            last = step
        elif kind == "step":
            if last is None or step != last + 1:
                found.append(f"step {step} behind step {last}")
            last, highest = step, max(step, highest)
        elif kind == "checkpoint":
            saved = step
    return found


def redone(trained: Events) -> int:
    """How many steps were done more than once."""
    steps = [event["step"] for event in trained if event["type"] == "step"]
    return len(steps) - len(set(steps))


def recovered_at(trained: Events, moment: float) -> float | None:
    """When the first step was done after a fault; nothing where there was none.

    Where a trainer was started after it, that one's first: the one before may have done a step
    until it heard of its end.
    """
    later = [event for event in trained if event["time"] > moment]
    began = next((at for at, event in enumerate(later) if event["type"] == "began"), 0)
    return next((event["time"] for event in later[began:] if event["type"] == "step"), None)
