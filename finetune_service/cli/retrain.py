"""finetune-cli retrain: a registered model, trained anew on the data as it is now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from finetune_core.config import PipelineConfig
from finetune_core.config.pipeline import read_mapping
from flows import options
from flows.command import report_errors

if TYPE_CHECKING:
    from flows.retrain import Retraining


def retrain(
    model: Annotated[str, typer.Argument(help="The registered model's name.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="How to train in place of what its card says."),
    ] = None,
    min_drift: Annotated[
        float,
        typer.Option(
            "--min-drift", min=0, max=1, help="The share of rows that must have come or gone."
        ),
    ] = 0.0,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", help="Have a worker run it, as flow/deployment; else here."),
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Train a registered model anew, unless its data has not changed; the gate judges it."""

    def work() -> None:
        from flows.retrain import retrain as run

        given = PipelineConfig.parse(read_mapping(config), source=str(config)) if config else None
        found = run(model, given, organization, deployment, min_drift)
        if as_json:
            sys.stdout.write(found.model_dump_json(indent=2) + "\n")
        else:
            _show(found)

    report_errors(work, as_json=as_json)


def _show(found: Retraining) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if found.changes:
        changes = found.changes
        console.print(
            f"rows     {changes.added:,} came, {changes.removed:,} went, {changes.kept:,} stayed "
            f"since {found.since}"
        )
    console.print(f"skipped  {found.skipped}" if found.skipped else f"job      {found.job_id}")
