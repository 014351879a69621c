"""finetune-cli backup, restore: everything that an installation keeps, as one file and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_service.upkeep.backup import back_up
from finetune_service.upkeep.restore import restore as put_back
from finetune_service.upkeep.settings import load_keep_settings
from flows import options
from flows.command import print_json, report_errors


def backup(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_FILE", help="A folder, or a .tar, .tar.gz or .tar.zst to be."
        ),
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Caches and checkpoints that gc could remove, too.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write all that FINETUNE_HOME and the databases hold into one file, up or down."""

    def work() -> None:
        made = back_up(target, load_keep_settings(), everything=everything)
        if as_json:
            print_json(made.model_dump(mode="json"))
            return
        typer.echo(f"backup     {made.path}, {made.bytes:,} bytes, {made.files:,} files")
        typer.echo(f"databases  {_databases(made.about.postgres)}")
        if made.left_out:
            typer.echo(f"left out   {made.left_out:,} caches and checkpoints; --all keeps them")
        if made.elsewhere:
            typer.echo(f"not in it  the uploaded files, which are kept at {made.elsewhere}")
        if made.about.live:
            typer.echo("the stack ran: what came while this was written is in it in part or not")
        typer.echo(f"made in {made.seconds:.1f} s")

    report_errors(work, as_json=as_json)


def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="What backup has written.")],
    force: Annotated[
        bool, typer.Option("--force", help="Set aside what is in FINETUNE_HOME and the databases.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Put a backup in place, into an empty FINETUNE_HOME; the stack stays down."""

    def work() -> None:
        made = put_back(archive, force=force)
        if as_json:
            print_json(made.model_dump(mode="json"))
            return
        typer.echo(f"restored   {made.home}")
        typer.echo(f"databases  {_databases(made.about.postgres)}")
        if made.aside:
            typer.echo(f"set aside  {made.aside}; remove it when nothing is missed")
        typer.echo(f"restored in {made.seconds:.1f} s; finetune-cli up starts it")

    report_errors(work, as_json=as_json)


def _databases(postgres: str | None) -> str:
    return f"of PostgreSQL {postgres}" if postgres else "SQLite files alone"
