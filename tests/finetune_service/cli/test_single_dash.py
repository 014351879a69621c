from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from finetune_service.cli.single_dash import SingleDash

app = typer.Typer()


@app.command(cls=SingleDash)
def command(
    name: str = "",
    lora_rank: int = typer.Option(0, "--lora-rank", "--rank"),
    model: str = typer.Option("", "--model", "-m"),
    epochs: int = typer.Option(0, "--epochs", "-e"),
    loud: bool = typer.Option(False, "--loud", "-l"),
    rest: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    typer.echo(f"{name}|{lora_rank}|{model}|{epochs}|{loud}|{','.join(rest or [])}")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("-lora-rank 16 -model a -epochs 3 -loud", "|16|a|3|True|"),
        ("--lora-rank 16 --model a --epochs 3 --loud", "|16|a|3|True|"),
        ("-rank=16 -model=a", "|16|a|0|False|"),
        ("-m a -e 3 -l x y", "|0|a|3|True|x,y"),
        ("-ma/b -e3", "|0|a/b|3|False|"),
        ("-name -model -m -name x", "-model|0|-name|0|False|x"),
        ("-model a -- -model -b", "|0|a|0|False|-model,-b"),
        ("x -loud y", "|0||0|True|x,y"),
    ],
)
def test_both_ways_of_writing_an_option(given, read):
    done = CliRunner().invoke(app, given.split())
    assert (done.exit_code, done.stdout) == (0, f"{read}\n"), done.output


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("-epoch 3", "--epochs"),
        ("-lora-rnk 3", "--lora-rank"),
        ("--modle a", "--model"),
        ("-modle a", "--model"),
    ],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(given, meant):
    done = CliRunner().invoke(app, given.split())
    assert done.exit_code == 2
    assert "No such option" in done.output
    assert meant in done.output
