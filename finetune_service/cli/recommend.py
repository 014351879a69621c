"""finetune-cli recommend: settings for a model and the memory there is, and what they cost."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from finetune_core.config import PipelineConfig
from finetune_core.data.check import CheckRequest, CheckResult
from finetune_core.exceptions import OutputError
from finetune_core.jobs import organization_folder
from finetune_core.models.recommend import (
    GB,
    PLACEHOLDER,
    Recommendation,
    RecommendRequest,
    Rows,
)
from finetune_core.models.sizing import Cost
from finetune_core.storage import from_here
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import report_errors
from tasks.terminal import Terminal


def recommend(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the hub.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="The training file; its rows are counted.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a config that train takes.")
    ] = None,
    vram: Annotated[
        float | None,
        typer.Option("--vram", min=0, help="The GB to train in; without it, what there is."),
    ] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Train some steps; without it, on a GPU and with small models.",
        ),
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Recommend how to train a model; estimate and measure what that takes."""

    def work() -> None:
        config = PipelineConfig.parse(
            {"model": {"name": model}, "dataset": {"path": dataset or PLACEHOLDER}}
        )
        with Terminal("recommend") as terminal:
            rows = _count(config, organization, terminal) if dataset else None
            found = run_heavy(
                "finetune_core.models.recommend:recommend",
                RecommendRequest(
                    model=config.model,
                    dataset=dataset,
                    rows=rows,
                    memory_gb=vram,
                    measure=measure,
                ),
                Recommendation,
                organization=organization,
                kind="recommendations",
                terminal=terminal,
            )
        if output:
            _write(found, output, has_dataset=dataset is not None)
        if as_json:
            sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        else:
            _show(found, output)

    report_errors(work, as_json=as_json)


def _count(config: PipelineConfig, organization: str, terminal: Terminal) -> Rows:
    """The rows that would be trained on, found as `data check` finds them; training reuses it."""
    request = CheckRequest(
        dataset=config.dataset,
        model=config.model,
        tokenization=config.tokenization,
        cache=organization_folder(organization) / "cache",
    )
    report = run_heavy(
        "finetune_core.data.check:check",
        request,
        CheckResult,
        organization=organization,
        kind="checks",
        terminal=terminal,
    ).report
    tokens = report.tokens
    mean = round(tokens.total / (report.train_rows + report.validation_rows))
    return Rows(count=report.train_rows, longest=tokens.longest, mean=mean)


def _write(found: Recommendation, file: Path, *, has_dataset: bool) -> None:
    """Writes the config, once it is known to be one."""
    text = yaml.safe_dump(found.config, sort_keys=False)
    if not has_dataset:
        text = text.replace("dataset:\n", "dataset:  # put your own training file here\n")
    memory = found.machine.memory_gb
    head = f"# Recommended for {found.parameters:,} parameters in {memory:.1f} GB.\n"
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(head + text)
        PipelineConfig.from_yaml(temporary)
        os.replace(temporary, file)
    except OSError as error:
        raise OutputError(f"the config {file} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _show(found: Recommendation, output: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    machine, plan, rows = found.machine, found.plan, found.rows
    rank = f", rank {plan.lora_rank}" if plan.lora_rank else ""
    saving = ", gradient checkpointing" if plan.gradient_checkpointing else ""
    count = f"{rows.count:,} rows" if rows.count else "rows"
    console.print(f"model      {found.model}, {found.parameters:,} parameters")
    console.print(f"memory     {machine.memory_gb:.1f} GB ({machine.device})")
    console.print(f"method     {plan.method}{rank}{saving}")
    console.print(f"batch      {found.batch_size} rows a step, {found.micro_batch_size} at once")
    console.print(f"data       {count} of {rows.mean} tokens, {rows.longest} at most")
    table = Table()
    table.add_column("")
    for column in ("estimate", "measured"):
        table.add_column(column, justify="right")
    costs = (found.estimate, found.measured)
    for name, value in LINES.items():
        table.add_row(name, *(value(cost) if cost else "" for cost in costs))
    console.print(table)
    if found.not_measured:
        console.print(f"not measured: {found.not_measured}")
    if output:
        console.print(f"config     {from_here(output.absolute())}")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


LINES: dict[str, Callable[[Cost], str]] = {
    "memory": lambda cost: f"{cost.memory_bytes / GB:.3f} GB",
    "a step": lambda cost: _seconds(cost.step_seconds),
    "the training": lambda cost: _seconds(cost.total_seconds),
    "largest batch": lambda cost: f"{cost.largest_batch or 'no'} rows",
}
