"""What came of trials: read from their jobs' folders, and shown as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from finetune_core.child import EventFile
from finetune_core.evaluation.report import table
from finetune_core.sweep.config import Scalar
from finetune_core.sweep.space import VALID_LOSS, Assignment
from finetune_core.sweep.study import State
from finetune_core.types import Job, Record, RegisteredVersion

SHARED = ("sanitize", "tokenize")  # the stages whose work trials may share
BEGINNINGS = ("began", "resumed")


class TrialRecord(Record):
    """One trial.

    Attributes:
        number: From 0 on.
        state: How it stands with it.
        values: Those of its fields.
        value: What the sweep's metric has come to; none of one that was not completed.
        valid_loss: The last validation loss.
        seconds: How long its processes have worked.
        cached: Which of sanitize and tokenize found their work done.
        metrics: All that was measured.
        job_id: Its job.
        version: Its registered version, by its number.
        stopped_at: The epoch after which it was to stop, being worse than others.
        problem: Why it has failed.
    """

    number: int
    state: State
    values: Assignment
    value: float | None
    valid_loss: float | None
    seconds: float
    cached: list[str]
    metrics: dict[str, float]
    job_id: str
    version: int | None
    stopped_at: float | None
    problem: str | None


class SweepResult(Record):
    """A finished sweep: its trials, the best of them, and what the gate said of that one."""

    sweep_id: str
    run_id: str
    metric: str
    trials: list[TrialRecord]
    best: int
    registered: RegisteredVersion


class Story(NamedTuple):
    """What a job's events tell."""

    valid_loss: float | None
    chosen_loss: float | None
    cached: list[str]
    seconds: float


def read_outcome(job: Job) -> dict[str, Any]:
    """How a job ended; nothing where it has not."""
    if not job.outcome.exists():
        return {}
    outcome: dict[str, Any] = json.loads(job.outcome.read_text())
    return outcome


def read_story(job: Job) -> Story:
    """What a job's events tell; of a stage that was done again, the first time counts."""
    losses: list[float] = []
    stages: dict[str, dict[str, Any]] = {}
    seconds, began, last = 0.0, None, 0.0
    for event, _ in EventFile(job.events).read():
        name, data = event.get("name"), event.get("data") or {}
        if name in BEGINNINGS or began is None:
            seconds += last - began if began is not None else 0.0
            began = event["time"]
        last = event["time"]
        if name == "validation":
            losses.append(data["valid_loss"])
        elif name == "stage_ended":
            stages.setdefault(data["stage"], data)
    return Story(
        valid_loss=losses[-1] if losses else None,
        chosen_loss=stages.get("checkpoint", {}).get("valid_loss"),
        cached=[verb for verb in SHARED if stages.get(verb, {}).get("cached")],
        seconds=seconds + (last - began if began is not None else 0.0),
    )


def state_of(record: TrialRecord) -> str:
    """How it stands with a trial, in words; of one that was stopped, after how much of an epoch."""
    if record.state is State.PRUNED:
        return f"pruned at {record.stopped_at:.2g}"
    return str(record.state.value)


def said(record: TrialRecord, metric: str) -> str:
    """What came of a trial, in a line."""
    came = state_of(record)
    if record.value is not None:
        came = f"{metric} {record.value:.4f}"
    values = zip(short_names(record.values), record.values.values(), strict=True)
    line = f"{', '.join(f'{name} {_shown(value)}' for name, value in values)}: {came}"
    return f"{line}: {' '.join(record.problem.split())}" if record.problem else line


def short_names(values: Assignment) -> list[str]:
    """The fields' names without their sections, where they are of one section only."""
    last = [path.rpartition(".")[2] for path in values]
    return [
        name if last.count(name) == 1 else path for path, name in zip(values, last, strict=True)
    ]


def head(metric: str, records: Sequence[TrialRecord]) -> list[str]:
    """The names of a table's columns."""
    names = short_names(records[0].values) if records else []
    values = [metric] if metric == VALID_LOSS else [metric, VALID_LOSS]
    return ["trial", *names, *values, "seconds", "cached", "state"]


def cells(record: TrialRecord, metric: str) -> list[str]:
    """A trial's row in a table, as `head` names it."""
    values = {metric: record.value, VALID_LOSS: record.value or record.valid_loss}
    if metric != VALID_LOSS:
        values[VALID_LOSS] = record.valid_loss
    return [
        str(record.number),
        *map(_shown, record.values.values()),
        *("" if value is None else f"{value:.4f}" for value in values.values()),
        f"{record.seconds:.1f}",
        "yes" if len(record.cached) == len(SHARED) else " ".join(record.cached),
        state_of(record),
    ]


def _shown(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(title: str, metric: str, records: Sequence[TrialRecord], best: int | None) -> str:
    """The table as Markdown, what has failed below it."""
    rows = [
        [f"**{cell}**" if cell and each.number == best else cell for cell in cells(each, metric)]
        for each in records
    ]
    problems = [
        f"- trial {each.number}: {' '.join(each.problem.split())}"
        for each in records
        if each.problem
    ]
    lines = [f"# {title}", "", *table(head(metric, records), rows), ""]
    return "\n".join([*lines, *problems, ""] if problems else lines)
