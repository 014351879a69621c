"""finetune-cli evaluate: what models score on a dataset, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_core.evaluation.evaluator import CompareRequest, ComparisonResult
from finetune_core.evaluation.report import shown
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import read_config, report_errors
from tasks.terminal import Terminal


def evaluate(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A model's or an adapter's folder, an id on the hub, or a registered version, "
            "NAME@VERSION or NAME@ALIAS; give several to compare.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="The rows: JSON, JSONL, CSV, Parquet."),
    ] = None,
    hf_dataset: options.HubDataset = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="Names divided by commas, or files of `evaluate` modules; the first one ranks.",
        ),
    ] = "accuracy",
    format: options.Format = None,  # noqa: A002 - it is the flag's name
    input_field: options.InputField = None,
    output_field: options.OutputField = None,
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Measure so many rows, the first.")
    ] = None,
    max_length: options.MaxLength = None,
    generation_max_length: Annotated[
        int | None,
        typer.Option("--generation-max-length", help="The tokens that an answer may have."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Rows at once.")
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Measure models on a dataset, and rank them; with registered ones, MLflow keeps the table."""
    registered = any("@" in each and not Path(each).exists() for each in model)
    if registered:
        import flows.evaluate_registered  # noqa: F401 - Prefect brings log lines: before they end

    def work() -> None:
        sections: dict[str, dict[str, Any]] = {
            "dataset": {
                "path": hf_dataset or dataset,
                "source": "hub" if hf_dataset else None,
                "format": format,
                "input_field": input_field,
                "output_field": output_field,
            },
            "tokenization": {"max_length": max_length},
            "evaluation": {
                "metrics": metrics.split(","),
                "num_samples": num_samples,
                "batch_size": batch_size,
                "generation_max_length": generation_max_length,
            },
        }
        config = read_config(None, sections)
        if registered:
            from flows.evaluate_registered import evaluate_registered

            result = evaluate_registered(
                model, config.dataset, organization, config.evaluation, config.tokenization
            )
            _tell(result, config.dataset.path, as_json)
            return
        request = CompareRequest(
            models=model,
            dataset=config.dataset,
            tokenization=config.tokenization,
            evaluation=config.evaluation,
        )
        with Terminal("evaluate") as terminal:
            result = run_heavy(
                "finetune_core.evaluation.evaluator:compare",
                request,
                ComparisonResult,
                organization=organization,
                kind="evaluations",
                terminal=terminal,
            )
        _tell(result, config.dataset.path, as_json)

    report_errors(work, as_json=as_json)


def _tell(result: ComparisonResult, dataset: str, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(result.model_dump_json(indent=2) + "\n")
    else:
        _show(result, Path(dataset).name)


def _show(result: ComparisonResult, dataset: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=dataset)
    table.add_column("metric", no_wrap=True)
    table.add_column("model", overflow="fold")
    for column in ("value", "rows"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in result.results[result.best_model].metrics:
        for model in result.ranking:
            found = result.results[model]
            value = shown(found.metrics[name], found.intervals[name])
            table.add_row(name, model, value, f"{found.samples_evaluated:,}")
        table.add_section()
    console.print(table)
    if len(result.ranking) > 1:
        console.print(f"best  {result.best_model}")
