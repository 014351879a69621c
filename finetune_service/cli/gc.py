"""finetune-cli gc: removes what nobody needs any more."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finetune_service.upkeep.gc import Collected, collect
from finetune_service.upkeep.removal import Removable
from finetune_service.upkeep.settings import load_keep_settings
from flows import options
from flows.command import print_json, report_errors


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")
    ] = False,
    organization: Annotated[
        str | None, typer.Option("--organization", help="Only this one's; else all.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove what no unfinished job and no registered model needs, when it is old enough."""
    found: list[Collected] = []

    def work() -> None:
        collected = collect(load_keep_settings(), organization=organization, dry_run=dry_run)
        found.append(collected)
        if as_json:
            print_json(_told(collected, dry_run))
        else:
            _show(collected, dry_run)

    report_errors(work, as_json=as_json)
    if found[0].problems:
        raise typer.Exit(1)


def _groups(removed: list[Removable]) -> dict[tuple[str, str], list[Removable]]:
    """What is of one kind for one reason."""
    groups: dict[tuple[str, str], list[Removable]] = {}
    for each in removed:
        groups.setdefault((each.kind, each.why), []).append(each)
    return groups


def _told(collected: Collected, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "bytes": sum(each.bytes for each in collected.removed),
        "removed": [
            {
                "kind": kind,
                "count": len(group),
                "bytes": sum(each.bytes for each in group),
                "why": why,
                "paths": [str(each.path) for each in group],
            }
            for (kind, why), group in _groups(collected.removed).items()
        ],
        "problems": {name: str(error) for name, error in collected.problems.items()},
    }


def _show(collected: Collected, dry_run: bool) -> None:
    table = Table("kind", box=None)
    for column in ("number", "bytes"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for (kind, why), group in _groups(collected.removed).items():
        table.add_row(kind, f"{len(group):,}", f"{sum(each.bytes for each in group):,}", why)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if collected.removed:
        console.print(table)
    bytes_ = sum(each.bytes for each in collected.removed)
    console.print(f"{bytes_:,} bytes {'would be' if dry_run else 'were'} removed")
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for name, error in collected.problems.items():
        errors.print(
            f"error: folders of old jobs of {name} were left, since nobody can tell whether their "
            f"models are registered: {error}"
        )
