"""finetune-cli org, finetune-cli key: who may use the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_core.config.settings import Settings
from finetune_service.organizations import Key, Organizations
from flows import options
from flows.command import print_json, report_errors

org = typer.Typer(no_args_is_help=True, help="Make organisations, and list them.")
key = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of organisations.")

OrganizationName = Annotated[str, typer.Argument(help="The organisation.")]


@org.command("create")
def create_organization(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and dashes.")],
    as_json: options.AsJson = False,
) -> None:
    """Make an organisation."""

    def work(organizations: Organizations) -> None:
        made = organizations.create(name)
        _print(made.model_dump(), f"made organisation {made.name}", as_json)

    _run(work, as_json)


@org.command("list")
def list_organizations(as_json: options.AsJson = False) -> None:
    """List the organisations."""

    def work(organizations: Organizations) -> None:
        known = organizations.list()
        table = Table("organisation", "created", "live keys", box=None)
        for each in known:
            live = [key for key in organizations.keys(each.name) if key.revoked_at is None]
            table.add_row(each.name, when(each.created_at), str(len(live)))
        _print({"organizations": [each.model_dump() for each in known]}, table, as_json)

    _run(work, as_json)


@key.command("create")
def create_key(
    organization: OrganizationName,
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """Make a key of an organisation; it is shown once."""

    def work(organizations: Organizations) -> None:
        made = organizations.create_key(organization, name)
        if not as_json:
            Console(stderr=True).print("This key is shown once, and kept nowhere:")
        _print({**_public(made.key), "key": made.secret}, made.secret, as_json)

    _run(work, as_json)


@key.command("list")
def list_keys(
    organization: Annotated[str | None, typer.Argument(help="Only this one's.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List keys by their ids."""

    def work(organizations: Organizations) -> None:
        known = organizations.keys(organization)
        table = Table("id", "organisation", "name", "created", "revoked", box=None)
        for each in known:
            revoked = when(each.revoked_at) if each.revoked_at else ""
            table.add_row(each.id, each.organization, each.name, when(each.created_at), revoked)
        _print({"keys": [_public(each) for each in known]}, table, as_json)

    _run(work, as_json)


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id, as `key list` shows it.")],
    as_json: options.AsJson = False,
) -> None:
    """Refuse a key from now on."""

    def work(organizations: Organizations) -> None:
        revoked = organizations.revoke_key(key_id)
        _print(_public(revoked), f"revoked key {revoked.id} of {revoked.organization}", as_json)

    _run(work, as_json)


def _run(work: Callable[[Organizations], None], as_json: bool) -> None:
    report_errors(lambda: work(Organizations(Settings().home)), as_json=as_json)


def _public(key: Key) -> dict[str, Any]:
    return key.model_dump(exclude={"digest"})


def _print(value: dict[str, Any], shown: str | Table, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        Console(highlight=False, soft_wrap=True, markup=False).print(shown)


def when(seconds: int) -> str:
    """A time as a table shows it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="minutes")
