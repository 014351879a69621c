"""finetune-cli join: lend a machine to a training that another one leads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finetune_core.jobs import jobs_folder
from finetune_core.trainers.join import join as lend
from flows import options
from flows.command import report_errors


def join(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder that the job was given.")
    ] = None,
    patience: Annotated[
        float, typer.Option("--patience", min=1, help="Seconds to wait for the first machine.")
    ] = 600,
    organization: options.Organization = "local",
) -> None:
    """Lend this machine to a training of several, which FINETUNE_MACHINE_RANK=0 leads."""

    def work() -> None:
        trained = lend(jobs_folder(organization, output) / job, patience=patience)
        Console(stderr=True).print(f"the training of {job} is finished: {trained.steps:,} steps")

    report_errors(work, as_json=False)
