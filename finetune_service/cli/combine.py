"""finetune-cli combine: several registered adapters become one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from finetune_core.models.combining import Way, check_asked
from flows import options
from flows.command import report_errors


def combine(
    adapters: Annotated[
        list[str], typer.Argument(metavar="REF...", help="Two or more NAME@VERSION or NAME@ALIAS.")
    ],
    way: Annotated[
        Way, typer.Option("--way", help="How: cat adds them up exactly, in a rank of their sum.")
    ] = "ties",
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", "-w", help="How much each counts, in their order; else 1."),
    ] = None,
    density: Annotated[
        float, typer.Option("--density", help="The share of updates that ties and dare keep.")
    ] = 0.5,
    name: Annotated[
        str | None, typer.Option("--name", help="The registered model's name; else the first's.")
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Make one adapter of several of one base, measure it and have the gate judge it."""

    def work() -> None:
        check_asked(adapters, weight or [1.0] * len(adapters), density)
        from flows.combine import combine as run

        version = run(adapters, organization, name, way, weight, density)
        if as_json:
            shown = version.model_dump_json(indent=2, exclude={"folder", "seconds", "cached"})
            sys.stdout.write(shown + "\n")
            return
        console = Console(highlight=False, soft_wrap=True, markup=False)
        console.print(f"registered  {version.ref} as {' and '.join(version.aliases)}")
        for check in version.gate.checks if version.gate else ():
            console.print(f"gate        {'passed' if check.passed else 'failed'}: {check.detail}")

    report_errors(work, as_json=as_json)
