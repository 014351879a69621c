"""finetune-cli: one file a noun or a verb."""

from __future__ import annotations

import typer

from finetune_core import __version__
from finetune_service.cli import data, evaluate, merge, recommend
from flows.command import run

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
app.command("train")(run)
app.command("evaluate")(evaluate.evaluate)
app.command("merge")(merge.merge)
app.command("recommend")(recommend.recommend)
app.add_typer(data.app, name="data")


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
