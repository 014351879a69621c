"""What a person, or a program, sees of jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from finetune_service.jobs.states import Status
from finetune_service.sdk.records import JobEvent, JobInfo
from flows.command import print_json

HIDDEN = ("stage_began",)  # the bar says so
SHOWN_BY_BAR = ("step",)
PIPE_WIDTH = 200


def table(jobs: Iterable[JobInfo]) -> None:
    """Prints jobs, one a line."""
    found = Table(box=None)
    for column in ("id", "name", "status", "done", "model", "created"):
        found.add_column(column, no_wrap=column == "id", overflow="fold")
    for each in jobs:
        status, done = each.status.value, f"{each.progress:.0f} %"
        created = each.created_at.astimezone().strftime("%Y-%m-%d %H:%M")
        found.add_row(each.id, each.name, status, done, each.model, created)
    _console().print(found)


def job(found: JobInfo, metrics: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a job and what it has measured.

    Args:
        found: The job.
        metrics: The last value of each metric.
        as_json: Whether a program reads it.
    """
    if as_json:
        print_json({**found.model_dump(mode="json"), "metrics": metrics})
        return
    facts = Table(box=None, show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in {**found.model_dump(), **dict(_flat(metrics))}.items():
        if value not in (None, {}, ""):
            facts.add_row(name, _text(name, value))
    _console().print(facts)


def event(found: JobEvent, *, as_json: bool = False) -> None:
    """Prints one event as a line."""
    if as_json:
        sys.stdout.write(found.model_dump_json() + "\n")
    else:
        level = "" if found.level == "info" else f"{found.level}: "
        time = found.time.astimezone()
        sys.stdout.write(f"{time:%Y-%m-%d %H:%M:%S}  {level}{found.message}\n")
    sys.stdout.flush()


def watch(found: JobInfo, events: Iterable[JobEvent]) -> None:
    """Shows on standard error how a job goes on: a bar on a terminal, else lines."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    live = console.is_terminal
    bar = Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not live,
    )
    with bar:
        console.print(f"{found.id}  {found.name}")
        shown = bar.add_task(found.status.value, total=None, facts="")
        for each in events:
            if each.name == "stage_began":
                bar.remove_task(shown)  # another stage has no total yet, which an update keeps
                shown = bar.add_task(str(each.data.get("stage", "")), total=None, facts="")
            elif each.name == "step":
                facts = f"loss {each.data.get('train_loss', float('nan')):.3f}"
                done, total = each.data.get("step", 0), each.data.get("total_steps")
                bar.update(shown, completed=done, total=total, facts=facts)
            if each.name not in HIDDEN and not (live and each.name in SHOWN_BY_BAR):
                console.print(f"  {each.message}")


def exit_code(status: Status) -> int:
    """How a command ends that has watched a job."""
    if status in (Status.CANCELLED, Status.PAUSED):
        return 130
    return 1 if status is Status.FAILED else 0


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Metrics of metrics by their path."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(name: str, value: Any) -> str:
    if isinstance(value, Status):
        return value.value
    if isinstance(value, datetime):
        return _when(value)
    if name == "progress":
        return f"{value:.0f} %"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _when(time: datetime) -> str:
    return time.astimezone().isoformat(sep=" ", timespec="seconds")


def _console() -> Console:
    """Standard output; what reads a pipe gets lines that are not wrapped where 80 columns end."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, markup=False, width=width)
