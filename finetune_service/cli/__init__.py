"""finetune-cli: one file a noun or a verb."""

from __future__ import annotations

import typer

from finetune_core import __version__
from finetune_service.cli import (
    backup,
    combine,
    data,
    evaluate,
    export,
    gc,
    hub,
    hub_versions,
    job,
    join,
    merge,
    organizations,
    recommend,
    retrain,
    spec,
    stack,
    sweep,
    text_to_sql,
    upload,
    webhooks,
)
from flows.command import run

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
app.command("train")(run)
app.command("evaluate")(evaluate.evaluate)
app.command("merge")(merge.merge)
app.command("combine")(combine.combine)
app.command("sweep")(sweep.sweep)
app.command("text-to-sql")(text_to_sql.text_to_sql)
app.command("upload")(upload.upload)
app.command("export")(export.export)
app.command("join")(join.join)
app.command("recommend")(recommend.recommend)
app.command("retrain")(retrain.retrain)
for command in (stack.up, stack.down, stack.status, stack.logs):
    app.command()(command)
app.command()(gc.gc)
app.command()(backup.backup)
app.command()(backup.restore)
app.add_typer(data.app, name="data")
for verb in hub_versions.COMMANDS:
    hub.hub.command()(verb)
app.add_typer(hub.hub, name="hub")
app.add_typer(job.job, name="job")
organizations.org.add_typer(webhooks.app, name="webhook")
app.add_typer(organizations.org, name="org")
app.add_typer(organizations.key, name="key")
app.add_typer(spec.create, name="create")
app.add_typer(spec.list_, name="list")
app.add_typer(spec.get, name="get")
app.add_typer(spec.cancel, name="cancel")


@app.callback()
def root() -> None:
    """Fine-tune, evaluate and register language models."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Runs the command line."""
    app()
