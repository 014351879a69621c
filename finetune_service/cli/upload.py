"""finetune-cli upload: an adapter or a model goes to the Hugging Face hub."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune_core.hub.export import opened
from finetune_core.hub.upload import (
    UploadReport,
    check_repo_id,
    find_token,
    is_local,
    prepare,
)
from finetune_core.hub.upload import upload as send
from finetune_core.models.merging import MergeReport, MergeRequest, read_adapter
from finetune_service.cli.heavy import run_heavy
from flows import options
from flows.command import report_errors
from tasks.terminal import Terminal


def upload(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_PATH",
            help="A folder (an adapter's, a job's, a whole model's), or a registered version as "
            "NAME@VERSION or NAME@ALIAS.",
        ),
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="NAMESPACE/NAME; made where it is not there.")
    ],
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="Better not: everybody on this machine sees it in the list of processes. Without "
            "it, HF_TOKEN of the environment, or the file that `hf auth login` wrote.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, where it is new.")
    ] = False,
    message: Annotated[
        str | None, typer.Option("--message", help="What the commit is for.")
    ] = None,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Upload base and adapter as one model.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", "-b", help="The base's id on the hub, where it was a folder here."
        ),
    ] = None,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Upload an adapter or a model to the Hugging Face hub, without paths of this machine."""

    def work() -> None:
        check_repo_id(repo_id, "REPO_ID")
        secret = token or find_token()  # before anything long begins
        with (
            opened(model, organization) as source,
            tempfile.TemporaryDirectory(prefix="finetune-") as temporary,
        ):
            folder = Path(temporary) / "upload"
            folder.mkdir()
            base = base_model
            if merge_adapter:
                named = read_adapter(source).get("base_model_name_or_path")
                base = base or (named if named and not is_local(named) else None)
                source = _merge(source, named, base, Path(temporary) / "merged", organization)
            prepared = prepare(source, folder, repo_id, base=base, merged=merge_adapter)
            report = send(prepared, repo_id, token=secret, private=private, message=message)
        if as_json:
            sys.stdout.write(report.model_dump_json(indent=2) + "\n")
        else:
            _show(report)

    report_errors(work, as_json=as_json)


def _merge(
    adapter: Path, named: str | None, base: str | None, output: Path, organization: str
) -> Path:
    """Merges an adapter into the base that it names where that is here, else into the hub's."""
    here = named is not None and Path(named).is_dir()
    request = MergeRequest(adapter=adapter, output=output, base=named if here else base)
    with Terminal("merge") as terminal:
        run_heavy(
            "finetune_core.models.merging:merge",
            request,
            MergeReport,
            organization=organization,
            kind="merges",
            terminal=terminal,
        )
    return output


def _show(report: UploadReport) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"uploaded  {report.url}, {report.kind}, commit {report.commit[:12]}")
    console.print(f"files     {', '.join(report.files)}")
    if report.base:
        console.print(f"base      {report.base}")
    for name, why in report.left_out.items():
        console.print(f"left out  {name}: {why}")
