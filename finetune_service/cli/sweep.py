"""finetune-cli sweep: many trials of a config, the best of which may become the champion."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from finetune_core.config.pipeline import read_mapping
from finetune_core.exceptions import (
    Fault,
    FineTuneError,
    InputError,
    InvalidConfigError,
    JobInterruptedError,
)
from finetune_core.sweep.config import SweepConfig
from finetune_core.types import new_id
from flows import options
from flows.command import print_json, read_config, report_errors

if TYPE_CHECKING:
    from finetune_core.sweep.trials import SweepResult


def sweep(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="What holds for all trials: YAML, JSON.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="What is tried: a YAML or JSON file.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A field and its values, training.learning_rate=1e-4,5e-4, or its range, "
            "training.learning_rate=1e-5..1e-3; with :log behind it, by orders of magnitude.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials in all; a grid has as many as it has.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Who chooses: grid, tpe or random.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="By which the best is found: loss, exact_match …")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Trials at once, with --deployment.")
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", help="Have workers run the trials: finetune/cpu."),
    ] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune/--no-prune", help="Stop trials that begin badly.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides the draws.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The registered model's name.")] = None,
    organization: options.Organization = "local",
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with a sweep that stopped, by its id.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Try values of a config's fields, and have the best trial face the gate."""
    from finetune_core.sweep.space import goal, resolve
    from finetune_core.sweep.sweep import find_sweep
    from flows.sweep import sweep as run  # before report_errors: Prefect brings its own log lines

    given = {
        "trials": trials,
        "sampler": sampler,
        "metric": metric,
        "parallel": parallel,
        "deployment": deployment,
        "prune": prune,
        "seed": seed,
    }

    def work() -> None:
        start = perf_counter()
        if resume:
            chosen, told = find_sweep(organization, resume)
            tries = _read(told.model_dump(), given, values)
        else:
            chosen = read_config(config, {"registry": {"model_name": name}})
            tries = _read(read_mapping(space) if space else {}, given, values, source=space)
        goal(tries, chosen)
        resolve(tries, chosen)  # what is wrong is said before Prefect starts
        sweep_id = resume or new_id("sweep")
        try:
            result = run(chosen, tries, organization, sweep_id)
        except InputError:
            raise
        except FineTuneError as error:
            error.hint = f"{error.hint or ''}\n{_again(sweep_id, organization)}".strip()
            raise
        except KeyboardInterrupt:
            raise JobInterruptedError(f"interrupted; {_again(sweep_id, organization)}") from None
        seconds = perf_counter() - start
        if as_json:
            found = {**result.model_dump(mode="json"), "duration_s": round(seconds, 3)}
            print_json(found)
        else:
            _show(result, organization, seconds)

    report_errors(work, as_json=as_json)


def _again(sweep_id: str, organization: str) -> str:
    whose = "" if organization == "local" else f" --organization {organization}"
    return f"what is done is kept, go on by sweep --resume {sweep_id}{whose}"


def _read(
    told: dict[str, Any],
    given: dict[str, Any],
    values: list[str] | None,
    source: Path | None = None,
) -> SweepConfig:
    """What a file tells, with the flags over it."""
    flags = {name: value for name, value in given.items() if value is not None}
    space = dict(told.get("space") or {})
    for each in values or ():
        path, equals, text = each.partition("=")
        if not (path and equals and text):
            problem = f"must be FIELD=VALUE,VALUE or FIELD=LOW..HIGH (got {each!r})"
            raise InvalidConfigError([Fault("--set", problem)])
        space[path.strip()] = _values(text)
    known = {**told, **flags, "space": space}
    return SweepConfig.parse(known, source=str(source) if source else None)


def _values(text: str) -> list[Any] | dict[str, Any]:
    """The values of a flag: a list, or a range where two numbers have dots between them."""
    low, dots, rest = text.partition("..")
    if not dots:
        return [yaml.safe_load(each) for each in text.split(",")]
    high, _, scale = rest.partition(":")
    return {"low": _number(low), "high": _number(high), "log": scale == "log"}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # what is wrong with it is said with all else that is wrong


def _show(result: SweepResult, organization: str, seconds: float) -> None:
    from finetune_core.hub import open_hub
    from finetune_core.sweep.trials import cells, head

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in head(result.metric, result.trials):
        left = column in ("cached", "state")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for each in result.trials:
        table.add_row(
            *cells(each, result.metric), style="bold" if each.number == result.best else None
        )
    console.print(table)
    for each in result.trials:
        if each.problem:
            console.print(f"trial {each.number}  {each.problem}")
    best, version = result.trials[result.best], result.registered
    values = ", ".join(f"{path} {value}" for path, value in best.values.items())
    console.print(f"sweep       {result.sweep_id}, {seconds:.0f} s")
    console.print(f"best        trial {best.number}: {values}")
    console.print(f"registered  {version.ref} as {' and '.join(version.aliases)}")
    for check in version.gate.checks if version.gate else ():
        console.print(f"gate        {'passed' if check.passed else 'failed'}: {check.detail}")
    console.print(f"compare     {open_hub(organization).look()}")
