"""finetune-cli up, down, status, logs: the stack of servers and workers on this machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from finetune_service.stack import health, lifecycle
from finetune_service.stack.exceptions import StackDownError
from finetune_service.stack.parts import database_name, parts
from finetune_service.stack.settings import StackSettings, kept_settings, load_settings
from finetune_service.stack.supervision import Supervisor
from flows import options
from flows.command import print_json, report_errors

SQLITE = (
    "single user: SQLite takes one writer at a time, so that Prefect refuses most calls of "
    "several clients. One job at a time, no second worker, no service for others."
)
FOLLOW_SECONDS = 0.3
LINES = 40


def up(
    sqlite: Annotated[
        bool | None,
        typer.Option("--sqlite", help="Without PostgreSQL, for a single user.", show_default=False),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Start Prefect, MLflow, the API and the workers, and deploy the flows."""

    def work() -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        settings = load_settings(sqlite=sqlite)
        if settings.sqlite:
            console.print(SQLITE)
        started = lifecycle.up(settings, say=console.print)
        addresses = {
            "api": settings.api_address,
            "api_docs": f"{settings.api_address}/docs",
            "prefect": settings.address(settings.prefect_port),
            "mlflow": settings.address(settings.mlflow_port),
        }
        if as_json:
            print_json(
                {
                    **addresses,
                    "database": database_name(settings, started.server),
                    "key": started.key,
                    "seconds": round(started.seconds, 1),
                }
            )
            return
        _show_addresses(settings, addresses, started)

    report_errors(work, as_json=as_json)


def down(as_json: options.AsJson = False) -> None:
    """Stop everything that `up` started; what it keeps stays."""

    def work() -> None:
        settings = kept_settings()
        waiting = lifecycle.down(settings) if settings else 0
        if as_json:
            print_json({"handed_back_jobs": waiting})
            return
        jobs = f"; {waiting} {'job goes' if waiting == 1 else 'jobs go'} on at the next up"
        typer.echo(f"the stack is down{jobs if waiting else ''}")

    report_errors(work, as_json=as_json)


def status(as_json: options.AsJson = False) -> None:
    """Say how each part is; ends with 1 where one is not healthy."""
    running = False

    def work() -> None:
        nonlocal running
        settings = _kept()
        server = lifecycle.server_url(settings)
        found = health.look(settings, parts(settings, server), server)
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            _show_status(found)
        running = found.running

    report_errors(work, as_json=as_json)
    if not running:
        raise typer.Exit(1)


def logs(
    part: Annotated[
        str | None, typer.Argument(help="One part, as `status` names it; without it, all.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="The last lines of each.")
    ] = LINES,
) -> None:
    """Show what the parts log."""

    def work() -> None:
        folder = Supervisor(_kept()).logs
        files = sorted(folder.glob("*.log"))
        if part is not None:
            files = [file for file in files if file.stem == part]
            if not files:
                known = ", ".join(sorted(file.stem for file in folder.glob("*.log")))
                raise StackDownError(f"there is no log of {part}", hint=f"There are: {known}")
        _show_logs(files, lines=lines, follow=follow)

    report_errors(work, as_json=False)


def _kept() -> StackSettings:
    settings = kept_settings()
    if settings is None:
        raise StackDownError("the stack was never started", hint="finetune-cli up starts it.")
    return settings


def _show_addresses(
    settings: StackSettings, addresses: dict[str, str], started: lifecycle.Started
) -> None:
    secrets = settings.folder / "secrets"
    notes = {
        "api": "",
        "api_docs": "",
        "prefect": f"  password: {secrets / 'prefect-password'} (as admin:…)",
        "mlflow": f"  user admin, password: {secrets / 'mlflow-password'}",
    }
    for name, address in addresses.items():
        typer.echo(f"{name.replace('_', ' '):<10} {address}{notes[name]}")
    typer.echo(f"{'database':<10} {database_name(settings, started.server)}")
    if started.key:
        typer.echo(f"{'key':<10} {started.key}  (shown once)")
    typer.echo(f"up in {started.seconds:.1f} s")


def _show_status(found: health.StackStatus) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None)
    for column in ("part", "health", "version", "address"):
        table.add_column(column, no_wrap=True)
    for column in ("pid", "MB", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for part in found.parts:
        numbers = [str(each or "") for each in (part.pid, part.memory_mb, part.up_seconds)]
        table.add_row(part.name, part.health, part.version, part.address, *numbers)
    console.print(table)
    console.print(f"database  {found.database}")
    for pool in found.pools:
        paused = ", paused" if pool.paused else ""
        console.print(f"pool {pool.name:<4} {pool.waiting} waiting, {pool.running} running{paused}")


def _show_logs(files: list[Path], *, lines: int, follow: bool) -> None:
    named = len(files) > 1
    offsets = {}
    for file in files:
        text = file.read_text(errors="replace")
        offsets[file] = file.stat().st_size
        if lines:
            _print_lines(file, text.splitlines()[-lines:], named)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        for file in files:
            size = file.stat().st_size
            if size < offsets[file]:
                offsets[file] = 0  # it was rotated
            with file.open("rb") as stream:
                stream.seek(offsets[file])
                new = stream.read()
            whole = new.rpartition(b"\n")[0]
            if whole:
                offsets[file] += len(whole) + 1
                _print_lines(file, whole.decode(errors="replace").splitlines(), named)


def _print_lines(file: Path, found: list[str], named: bool) -> None:
    for line in found:
        sys.stdout.write(f"{file.stem:<10} {line}\n" if named else f"{line}\n")
    sys.stdout.flush()
