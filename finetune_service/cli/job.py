"""finetune-cli job: fine-tuning jobs, over the API where FINETUNE_API_URL is set, else here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from finetune_core.config.pipeline import read_mapping
from finetune_core.exceptions import JobInterruptedError
from finetune_service.cli import job_shown as shown
from finetune_service.cli.single_dash import SingleDash
from finetune_service.jobs.priority import Priority
from finetune_service.jobs.states import Status, Verb
from finetune_service.sdk.backend import (
    Backend,
    follow,
    in_order,
    latest_metrics,
    open_backend,
)
from finetune_service.sdk.records import JobInfo
from finetune_service.sdk.request import JobRequest
from flows import options
from flows.command import print_json, report_errors

job = typer.Typer(no_args_is_help=True, help="Create, look at and control fine-tuning jobs.")


def _known(incomplete: str) -> list[tuple[str, str]]:
    """The jobs that a shell may complete a name with; none where nobody answers."""
    try:
        return [
            (each.id, f"{each.name}, {each.status.value}")
            for each in open_backend().list(50)
            if each.id.startswith(incomplete)
        ]
    except Exception:  # a shell shows what is written here in the middle of a person's line
        return []


Name = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id or its name.", autocompletion=_known)
]
Watch = Annotated[bool, typer.Option("--watch", help="Show how it goes on, until it has ended.")]


@job.command("create", cls=SingleDash)
def create(
    model: Annotated[
        str, typer.Option("--basemodel", "--model", "-m", help="The base model: a name or folder.")
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="The training file; it is uploaded to the API.")
    ],
    output_model: Annotated[
        str | None,
        typer.Option("--output-model", "--suffix", "--name", help="What the model is called."),
    ] = None,
    validation: options.Validation = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="lora, qlora, instruction_tuning or full_finetuning."),
    ] = None,
    epochs: options.Epochs = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Rows an optimizer step.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="The peak.")
    ] = None,
    lora_rank: options.LoraRank = None,
    lora_alpha: options.LoraAlpha = None,
    lora_dropout: options.LoraDropout = None,
    seed: options.Seed = None,
    priority: Annotated[
        Priority | None, typer.Option("--priority", help="Which of those that wait begin first.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Sections of a config, for all else: YAML or JSON."),
    ] = None,
    watch: Watch = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Create a job and return at once; the job goes on by itself."""
    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "lora_dropout": lora_dropout,
    }

    def work(backend: Backend) -> JobInfo:
        return backend.create(
            JobRequest(
                model=model,
                dataset=dataset,
                validation=validation,
                hyperparameters=hyperparameters,
                method=method,
                suffix=output_model,
                seed=seed,
                priority=priority.value if priority else None,
                config=read_mapping(config) if config else None,
            )
        )

    _show(work, organization, watch=watch, as_json=as_json)


@job.command("list", cls=SingleDash)
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """List the jobs, the newest first."""

    def work(backend: Backend) -> None:
        found = backend.list(limit)
        if as_json:
            print_json({"jobs": [each.model_dump(mode="json") for each in found]})
        else:
            shown.table(found)

    _run(work, organization, as_json=as_json)


@job.command("get", cls=SingleDash)
def get(
    name: Name,
    watch: Watch = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Show a job's state and metrics."""
    _show(lambda backend: backend.get(name), organization, watch=watch, as_json=as_json)


@job.command("cancel", cls=SingleDash)
def cancel(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """End a job; what it has done is kept."""
    _ask(Verb.CANCEL, name, organization, as_json=as_json)


@job.command("pause", cls=SingleDash)
def pause(
    name: Name,
    watch: Watch = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Have a job save a checkpoint and free its device."""
    _ask(Verb.PAUSE, name, organization, watch=watch, as_json=as_json)


@job.command("resume", cls=SingleDash)
def resume(
    name: Name,
    watch: Watch = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Have a paused job go on from its checkpoint."""
    _ask(Verb.RESUME, name, organization, watch=watch, as_json=as_json)


@job.command("checkpoint", cls=SingleDash)
def checkpoint(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Have a running job save a checkpoint now."""
    _ask(Verb.CHECKPOINT, name, organization, as_json=as_json)


@job.command("events", cls=SingleDash)
def events(
    name: Name,
    follows: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, as it happens.")
    ] = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Show what has happened to a job, in order; with --follow and --json, an object a line."""

    def work(backend: Backend) -> None:
        job_id = backend.get(name).id
        if as_json and not follows:
            found = in_order(backend, job_id)
            print_json({"events": [each.model_dump(mode="json") for each in found]})
            return
        for event in follow(backend, job_id) if follows else in_order(backend, job_id):
            shown.event(event, as_json=as_json)

    _run(work, organization, as_json=as_json)


@job.command("logs", cls=SingleDash)
def logs(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Print what a job's processes have written; over the API, the last lines of it."""

    def work(backend: Backend) -> None:
        lines = backend.logs(name)
        if as_json:
            print_json({"lines": list(lines)})
        else:
            sys.stdout.writelines(f"{line}\n" for line in lines)

    _run(work, organization, as_json=as_json)


def _ask(verb: Verb, name: str, organization: str, *, watch: bool = False, as_json: bool) -> None:
    _show(lambda backend: backend.ask(verb, name), organization, watch=watch, as_json=as_json)


def _show(
    find: Callable[[Backend], JobInfo], organization: str, *, watch: bool, as_json: bool
) -> None:
    """Shows a job with its metrics, at its end where somebody watches."""
    ended: list[Status] = []

    def work(backend: Backend) -> None:
        found = find(backend)
        if watch:
            try:
                shown.watch(found, follow(backend, found.id))
            except KeyboardInterrupt:
                again = f"`finetune-cli job get {found.id} --watch` shows it again."
                raise JobInterruptedError(f"{found.id} goes on unwatched", hint=again) from None
            found = backend.get(found.id)
            ended.append(found.status)
        shown.job(found, latest_metrics(backend, found.id), as_json=as_json)

    _run(work, organization, as_json=as_json)
    if ended:
        raise typer.Exit(shown.exit_code(ended[0]))


def _run(work: Callable[[Backend], None], organization: str, *, as_json: bool) -> None:
    report_errors(lambda: work(open_backend(organization)), as_json=as_json)
