"""finetune-cli hub, of versions: promote, roll back, compare, verify, reproduce."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.tree import Tree

from finetune_core.evaluation.report import shown
from finetune_core.hub.reproduction import Reproduction
from finetune_core.storage import from_here
from finetune_service.cli.hub import print_text
from finetune_service.cli.organizations import when
from finetune_service.hub.versions import TreeNode, VersionRecord
from finetune_service.sdk.backend import VersionRegistry, open_versions
from flows import options
from flows.command import print_json, report_errors

SHORT = 12  # characters of a digest that a person reads

Ref = Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS; NAME is its newest.")]
ModelName = Annotated[str, typer.Argument(help="A registered model's name.")]


def promote(
    ref: Ref, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Make a version the champion by hand, whatever its gate has said."""
    _run(lambda known: _say(known.promote(ref), as_json), organization, as_json)


def rollback(
    name: ModelName, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Make the champion before this one the champion again; once more undoes it."""
    _run(lambda known: _say(known.rollback(name), as_json), organization, as_json)


def undelete(
    ref: Ref, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Bring a deleted version back."""
    _run(lambda known: _say(known.undelete(ref), as_json), organization, as_json)


def purge(
    ref: Ref, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Forget a deleted version for good."""

    def work(known: VersionRegistry) -> None:
        known.purge(ref)
        if as_json:
            print_json({"ref": ref, "purged": True})
        else:
            print_text(f"purged {ref}")

    _run(work, organization, as_json)


def history(
    name: ModelName, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Tell what happened to a model's versions, the last thing first."""

    def work(known: VersionRegistry) -> None:
        entries = known.history(name)
        if as_json:
            print_json({"history": [each.model_dump() for each in entries]})
            return
        table = Table("when", "version", "what", box=None)
        for each in entries:
            table.add_row(when(int(each.time)), each.ref, each.what)
        print_text(table)

    _run(work, organization, as_json)


def compare(
    first: Ref,
    second: Ref,
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Show two versions' metrics side by side, and in which settings they differ."""

    def work(known: VersionRegistry) -> None:
        found = known.compare(first, second)
        if as_json:
            print_json(found.model_dump())
            return
        table = Table("metric", found.first, found.second, "change", box=None)
        for row in found.metrics:
            pair = row.first, row.second
            change = f"{pair[1] - pair[0]:+.4f}" if None not in pair else ""  # type: ignore[operator]
            table.add_row(
                row.metric,
                "" if row.first is None else shown(row.first, row.first_interval),
                "" if row.second is None else shown(row.second, row.second_interval),
                change,
            )
        print_text(table)
        if not found.same_rows:
            print_text("They were measured on other rows each: the metrics do not compare.")
        for name, (before, after) in found.settings.items():
            print_text(f"{name}: {before} → {after}")

    _run(work, organization, as_json)


def tree(organization: options.Organization = "local", as_json: options.AsJson = False) -> None:
    """Show the base models, and what was made of each, by domain and task."""

    def work(known: VersionRegistry) -> None:
        nodes = known.tree()
        if as_json:
            print_json({"tree": [each.model_dump() for each in nodes]})
            return
        for node in nodes:
            print_text(_grow(Tree(node.name), node))

    _run(work, organization, as_json)


def card(ref: Ref, organization: options.Organization = "local") -> None:
    """Print a version's lineage card, as JSON."""
    _run(lambda known: print_json(known.card(ref).model_dump(mode="json")), organization, True)


def download(
    ref: Ref,
    output: Annotated[Path, typer.Argument(help="Gets the files; not there yet, or empty.")],
    organization: options.Organization = "local",
    as_json: options.AsJson = False,
) -> None:
    """Fetch a version's files, each checked against the card."""

    def work(known: VersionRegistry) -> None:
        folder = known.download(ref, output.absolute())
        names = sorted(
            str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()
        )
        if as_json:
            print_json({"ref": ref, "folder": str(folder), "files": names})
        else:
            print_text(f"{len(names)} files in {from_here(folder)}")

    _run(work, organization, as_json)


def verify(
    ref: Ref, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Recompute every digest of a version's card; exit code 1 where one is not as it was."""

    def work(known: VersionRegistry) -> None:
        found = known.verify(ref)
        if as_json:
            print_json({**found.model_dump(), "verified": found.verified, "faults": found.faults})
            if not found.verified:
                sys.exit(1)
            return
        table = Table("what", "state", "sha256", box=None)
        for each in found.findings:
            table.add_row(each.what, each.state, (each.found or each.expected or "")[:SHORT])
        print_text(table)
        print_text(f"signed by {found.signed_by}" if found.signed_by else "not signed")
        found.insist()
        print_text(f"{found.ref} is what its card says")

    _run(work, organization, as_json)


def reproduce(
    ref: Ref, organization: options.Organization = "local", as_json: options.AsJson = False
) -> None:
    """Make a version again from its card, on this machine, and compare the two."""

    def work() -> None:
        from finetune_core.hub import open_hub
        from finetune_service.hub import Versions
        from flows.reproduce import reproduce as run

        version = Versions(open_hub(organization)).find(ref)
        found = run(version.model_name, version.version, organization)
        if as_json:
            print_json(found.model_dump())
        else:
            _show(found)
        if not found.within_tolerance:
            sys.exit(1)

    report_errors(work, as_json=as_json)


def _show(found: Reproduction) -> None:
    for name, digest in found.registered.items():
        print_text(f"registered  {digest}  {name}")
        print_text(f"reproduced  {found.reproduced.get(name, 'missing')}  {name}")
    for each in found.differences:
        print_text(f"differs     {each}")
    if found.identical:
        print_text(f"identical   {found.ref} was made again, to the byte")
    elif found.relative_difference is None:
        print_text("unlike      the weights have not the same names, shapes or types")
    else:
        print_text(
            f"difference  {found.relative_difference:.2g} of the weights' norm "
            f"(tolerance {found.tolerance:g})"
        )


def _grow(tree: Tree, node: TreeNode) -> Tree:
    for child in node.children:
        _grow(tree.add(child.name), child)
    return tree


def _say(version: VersionRecord, as_json: bool) -> None:
    if as_json:
        print_json(version.model_dump())
    else:
        aliases = " and ".join(version.aliases) or "nothing"
        print_text(f"{version.ref} is {aliases} now")


def _run(work: Callable[[VersionRegistry], Any], organization: str, as_json: bool) -> None:
    report_errors(lambda: work(open_versions(organization)), as_json=as_json)


COMMANDS: tuple[Callable[..., None], ...] = (
    promote,
    rollback,
    undelete,
    purge,
    history,
    compare,
    tree,
    card,
    download,
    verify,
    reproduce,
)
