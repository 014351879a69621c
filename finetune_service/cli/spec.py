"""The specification's own forms: `create fine-tune-job`, `list hub-model` and so on.

Jobs are those of `finetune_service.cli.job`, under the words of the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from finetune_service.cli import job
from finetune_service.cli.organizations import when
from finetune_service.cli.single_dash import SingleDash
from finetune_service.hub import AdapterRecord, ModelRecord
from finetune_service.sdk.backend import Registry, open_registry
from flows import options
from flows.command import print_json, report_errors

create = typer.Typer(no_args_is_help=True, help="Create a fine-tune-job.")
list_ = typer.Typer(no_args_is_help=True, help="List fine-tune-job, hub-model or hub-adapter.")
get = typer.Typer(no_args_is_help=True, help="Get a fine-tuning-job, hub-model or hub-adapter.")
cancel = typer.Typer(no_args_is_help=True, help="Cancel a fine-tuning-job.")

# The specification spells it both ways; the first is its own spelling for that verb.
for app, command, spellings in (
    (create, job.create, ("fine-tune-job", "fine-tuning-job")),
    (list_, job.list_jobs, ("fine-tune-job", "fine-tuning-job")),
    (get, job.get, ("fine-tuning-job", "fine-tune-job")),
    (cancel, job.cancel, ("fine-tuning-job", "fine-tune-job")),
):
    for spelling in spellings:
        hidden = spelling != spellings[0]
        app.command(spelling, cls=SingleDash, hidden=hidden)(command)

Name = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")]


@create.callback()
def _create() -> None:
    """Create a fine-tune-job."""


@cancel.callback()
def _cancel() -> None:
    """Cancel a fine-tuning-job."""


@list_.command("hub-model", cls=SingleDash)
def list_models(
    organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """List the models of the hub."""
    _show_all(lambda hub: hub.models(), "models", organization, as_json=as_json)


@list_.command("hub-adapter", cls=SingleDash)
def list_adapters(
    organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """List the adapters of the hub."""
    _show_all(lambda hub: hub.adapters(), "adapters", organization, as_json=as_json)


@get.command("hub-model", cls=SingleDash)
def get_model(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Show a model of the hub."""
    _show(lambda hub: hub.model(name), organization, as_json=as_json)


@get.command("hub-adapter", cls=SingleDash)
def get_adapter(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Show an adapter of the hub."""
    _show(lambda hub: hub.adapter(name), organization, as_json=as_json)


def _show_all(
    find: Callable[[Registry], Iterable[ModelRecord | AdapterRecord]],
    kind: str,
    organization: str,
    *,
    as_json: bool,
) -> None:
    def work() -> None:
        found = list(find(open_registry(organization)))
        if as_json:
            print_json({kind: [each.model_dump() for each in found]})
            return
        columns = ("base model", "dataset") if kind == "adapters" else ("type", "origin")
        table = Table("id", *columns, "created", box=None)
        for each in found:
            if isinstance(each, AdapterRecord):
                facts = (each.model_id, each.dataset or "")
            else:
                facts = (each.type, each.origin)
            table.add_row(each.id, *facts, when(each.created_at))
        _print(table)

    report_errors(work, as_json=as_json)


def _show(
    find: Callable[[Registry], ModelRecord | AdapterRecord], organization: str, *, as_json: bool
) -> None:
    def work() -> None:
        found = find(open_registry(organization)).model_dump()
        if as_json:
            print_json(found)
            return
        table = Table(box=None, show_header=False)
        facts = {**found, "created_at": when(found["created_at"])}
        for field, value in {**facts, **facts.pop("parameters", {})}.items():
            table.add_row(field, str(value))
        _print(table)

    report_errors(work, as_json=as_json)


def _print(table: Table) -> None:
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
