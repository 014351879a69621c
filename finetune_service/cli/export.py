"""finetune-cli export: an adapter or a model as a folder that other servers start from."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune_core.hub.export import (
    ExportReport,
    Format,
    export_adapter,
    export_whole,
    is_adapter,
    opened,
    whole_report,
)
from finetune_core.models.merging import Dtype, MergeReport, MergeRequest
from finetune_core.storage import from_here
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import report_errors
from tasks.terminal import Terminal


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder (an adapter's, a job's, a whole model's), or a registered version as "
            "NAME@VERSION or NAME@ALIAS.",
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT_DIR", help="Gets the files; not there yet.")
    ],
    format: Annotated[  # noqa: A002 - it is the flag's name
        Format,
        typer.Option(
            "--format",
            help="vllm: an adapter that vLLM loads beside its base. safetensors: a whole model, "
            "into which an adapter is merged.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", help="What clients call it; without it, OUTPUT_DIR's name."),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", "-b", help="The base; without it, the one that the adapter names."
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option("--dtype", help="What a merged model is in; without it, as the base is."),
    ] = None,
    allow_embeddings: Annotated[
        bool,
        typer.Option(
            "--allow-embeddings",
            help="Let adapters on embed_tokens and lm_head through, which vLLM loads for some "
            "classes of models.",
        ),
    ] = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Export an adapter for vLLM, or a whole model, and say how it is served."""

    def work() -> None:
        folder = output.absolute()
        called = name or re.sub(r"[^\w.-]", "-", folder.name)
        with opened(model, organization) as source:
            if format == "vllm":
                report = export_adapter(
                    source, folder, called, base=base_model, embeddings=allow_embeddings
                )
            elif is_adapter(source):
                request = MergeRequest(adapter=source, output=folder, base=base_model, dtype=dtype)
                with Terminal("merge") as terminal:
                    merged = run_heavy(
                        "finetune_core.models.merging:merge",
                        request,
                        MergeReport,
                        organization=organization,
                        kind="merges",
                        terminal=terminal,
                    )
                report = whole_report(folder, called, merged.base)
            else:
                report = export_whole(source, folder, called)
        if as_json:
            sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        else:
            _show(report)

    report_errors(work, as_json=as_json)


def _show(report: ExportReport) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"exported  {from_here(report.output)}")
    if report.base:
        console.print(f"base      {report.base}")
    console.print(f"serve     {report.command}")
