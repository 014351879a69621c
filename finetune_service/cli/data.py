"""finetune-cli data: look at a dataset before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune_core.config import PipelineConfig
from finetune_core.data.check import CheckRequest, CheckResult
from finetune_core.data.report_page import facts, page, verdict
from finetune_core.jobs import organization_folder
from finetune_core.storage import from_here
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import print_json, report_errors
from tasks.terminal import Terminal

app = typer.Typer(no_args_is_help=True, help="Look at a dataset before it costs anything.")
BAR = 30  # characters of the longest bar of the histogram


@app.callback()
def root() -> None:
    """Look at a dataset before it costs anything."""


@app.command()
def check(
    file: Annotated[
        str | None, typer.Argument(help="The file or folder to check.", show_default=False)
    ] = None,
    hf_dataset: options.HubDataset = None,
    model: options.Model = None,
    task: options.ModelTask = None,
    validation: options.Validation = None,
    evaluation: options.Evaluation = None,
    format: options.Format = None,  # noqa: A002 - it is the flag's name
    input_field: options.InputField = None,
    output_field: options.OutputField = None,
    max_length: options.MaxLength = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page.")] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Say what training on a file would see: rows, tokens, what is trained, what is doubtful."""

    def work() -> None:
        dataset = {
            "path": hf_dataset or file,
            "source": "hub" if hf_dataset else None,
            "validation_path": validation,
            "evaluation_path": evaluation,
            "format": format,
            "input_field": input_field,
            "output_field": output_field,
        }
        config = PipelineConfig.parse(
            {
                "dataset": {name: value for name, value in dataset.items() if value},
                "model": {
                    name: value for name, value in (("name", model), ("task", task)) if value
                },
                "tokenization": {"max_length": max_length} if max_length else {},
            }
        )
        request = CheckRequest(
            dataset=config.dataset,
            model=config.model,
            tokenization=config.tokenization,
            cache=organization_folder(organization) / "cache",
        )
        with Terminal("check") as terminal:
            result = run_heavy(
                "finetune_core.data.check:check",
                request,
                CheckResult,
                organization=organization,
                kind="checks",
                terminal=terminal,
            )
        if html:
            html.write_text(page(result.report, Path(config.dataset.path).name))
        if as_json:
            found = {**result.report.model_dump(mode="json"), "ledger": str(result.ledger)}
            print_json(found)
        else:
            _show(result)

    report_errors(work, as_json=as_json)


def _show(result: CheckResult) -> None:
    report = result.report
    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts(report):
        table.add_row(*fact)
    console.print(table)
    highest = max(report.tokens.histogram)
    width = report.tokens.longest / len(report.tokens.histogram)
    for number, count in enumerate(report.tokens.histogram, start=1):
        bar = "█" * -(-count * BAR // highest)
        console.print(f"  ≤ {number * width:>7,.0f} tokens  {bar} {count:,}")
    for number, pieces in enumerate(report.samples, start=1):
        text = Text()
        for piece in pieces:
            text.append(piece.text, style="bold green" if piece.trained else "dim")
        console.rule(f"row {number}: what is trained is green", align="left")
        console.print(text)
    console.rule()
    console.print(f"ledger   {from_here(result.ledger)}")
    console.print(f"verdict  {verdict(report)}")
