"""finetune-cli merge: an adapter and its base become one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune_core.models.merging import Dtype, MergeReport, MergeRequest
from finetune_core.storage import from_here
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import report_errors
from tasks.terminal import Terminal


def merge(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER_DIR", help="The adapter's folder.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT_DIR", help="Gets the merged model; not there yet.")
    ],
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", "-b", help="The base; without it, the one that the adapter names."
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="What is written; without it, as the base is.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="A file of rows to compare the two on.")
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Make one model of an adapter and its base, and check that it answers as they do."""

    def work() -> None:
        request = MergeRequest(
            adapter=adapter, output=output.absolute(), base=base_model, dtype=dtype, prompts=prompts
        )
        with Terminal("merge") as terminal:
            report = run_heavy(
                "finetune_core.models.merging:merge",
                request,
                MergeReport,
                organization=organization,
                kind="merges",
                terminal=terminal,
            )
        if as_json:
            sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        else:
            _show(report)

    report_errors(work, as_json=as_json)


def _show(report: MergeReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"merged   {from_here(report.output)}")
    console.print(f"base     {report.base}, {report.parameters:,} parameters in {report.dtype}")
    console.print(
        f"parity   {report.prompts} prompts, {report.tokens:,} tokens: largest logit difference "
        f"{report.max_logit_difference:.2g} (tolerance {report.tolerance:.2g}), "
        f"{report.equal_greedy_tokens:.2%} equal greedy tokens"
    )
