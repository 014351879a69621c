"""finetune-cli hub: the models and adapters of the registry, the API's or this machine's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table

from finetune_core.config.sections import ModelConfig
from finetune_service.cli.organizations import when
from finetune_service.exceptions import NotFoundError
from finetune_service.hub import AdapterRecord, Catalog, ModelRecord
from finetune_service.sdk.backend import Registry, open_registry
from flows import options
from flows.command import print_json, report_errors

hub = typer.Typer(
    no_args_is_help=True, help="The registered models: look, promote, verify, rebuild."
)

Name = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")]


@hub.command("list")
def list_records(
    organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """List models and adapters, the newest first."""

    def work(catalog: Registry) -> None:
        models, adapters = list(catalog.models()), list(catalog.adapters())
        if as_json:
            print_json(
                {
                    "models": [each.model_dump() for each in models],
                    "adapters": [each.model_dump() for each in adapters],
                }
            )
            return
        names = ("id", "kind", "base model", "dataset", "created", "aliases")
        table = Table(*(Column(each, overflow="fold") for each in names), box=None)
        for adapter in adapters:
            facts = adapter.model_id, adapter.dataset or "", when(adapter.created_at)
            table.add_row(adapter.id, "adapter", *facts, ", ".join(adapter.aliases))
        for model in models:
            base = (model.ref or "") if model.type == "base" else ""
            facts = base, "", when(model.created_at)
            table.add_row(model.id, f"{model.type} model", *facts, ", ".join(model.aliases))
        print_text(table)

    _run(work, organization, as_json)


@hub.command("get")
def get_record(
    name: Name, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Look at a model or an adapter."""

    def work(catalog: Registry) -> None:
        record = _either(catalog.adapter, catalog.model, name)
        if as_json:
            print_json(record.model_dump())
            return
        table = Table(box=None, show_header=False)
        facts = record.model_dump() | {"created_at": when(record.created_at)}
        for field, value in (facts | facts.pop("parameters", {})).items():
            table.add_row(field, str(value))
        print_text(table)

    _run(work, organization, as_json)


@hub.command("register")
def register_base(
    model: Annotated[str, typer.Argument(help="A base model's folder, or its id on the hub.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="The hub's: a branch, a tag or a commit.")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy weights, config and tokenizer into the registry.")
    ] = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Register a base model on this machine, by reference; jobs do so with theirs by themselves.

    What is registered already is told, and not registered again. --copy of a base that is there by
    reference makes a new version of it.
    """

    def work() -> None:
        from finetune_core.hub import open_hub
        from finetune_core.hub.bases import register_by_hand

        wanted = ModelConfig(name=model, revision=revision)
        with tempfile.TemporaryDirectory(prefix="finetune-") as temporary:
            version = register_by_hand(open_hub(organization), wanted, Path(temporary), copy=copy)
        record = Catalog(open_hub(organization)).model(version.ref)
        if as_json:
            print_json(record.model_dump())
        else:
            print_text(f"{record.name} is {record.ref}")

    report_errors(work, as_json=as_json)


@hub.command("delete")
def delete_record(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although an alias points there.")
    ] = False,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Delete a version by NAME@VERSION, or all of a name by NAME."""

    def work(catalog: Registry) -> None:
        _either(
            lambda name: catalog.delete_adapter(name, force=force),
            lambda name: catalog.delete_model(name, force=force),
            name,
        )
        if as_json:
            print_json({"id": name, "deleted": True})
        else:
            print_text(f"deleted {name}")

    _run(work, organization, as_json)


def _run(work: Callable[[Registry], None], organization: str, as_json: bool) -> None:
    report_errors(lambda: work(open_registry(organization)), as_json=as_json)


def _either(
    adapter: Callable[[str], AdapterRecord], model: Callable[[str], ModelRecord], name: str
) -> AdapterRecord | ModelRecord:
    """What a name means: an adapter, or else a whole model."""
    try:
        return adapter(name)
    except NotFoundError:
        return model(name)


def print_text(shown: RenderableType) -> None:
    """Prints what a person reads."""
    Console(highlight=False, soft_wrap=True, markup=False).print(shown)
