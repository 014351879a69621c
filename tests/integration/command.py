"""Runs the commands as a person does, in a process of their own, or quicker in this one."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import Result
from prefect.logging.configuration import setup_logging
from typer.testing import CliRunner

from finetune_service.cli import app
from tests.conftest import ROOT


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.finetune", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finetune(*arguments: object, **environment: str) -> Outcome:
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs finetune-cli."""
    return subprocess.run(
        [sys.executable, "-m", "finetune_service.cli", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def invoke(*words: object) -> Result:
    """Runs finetune-cli in this process."""
    # Prefect sets logging up when its first flow runs, and that closes all handlers there are. The
    # one of absl, which rouge-score brings, would close with itself the stream that it was made
    # with, unless that is sys.stderr still: here it is, in the runner it is not.
    setup_logging()
    return CliRunner().invoke(app, list(map(str, words)))


def write_config(path: Path, **sections: dict[str, Any]) -> Path:
    """A config of a training that takes seconds: 96 rows, 6 steps an epoch, 2 epochs."""
    defaults = {
        "model": {"name": "examples/tiny_base"},
        "dataset": {
            "path": "examples/data/train.jsonl",
            "validation_path": "examples/data/validation.jsonl",
            "max_samples": 96,
        },
        "training": {"epochs": 2, "learning_rate": 1e-3, "batch_size": 16, "save_steps": 3},
        "evaluation": {"num_samples": 16, "generation_max_length": 24},
    }
    names = {**defaults, **sections}
    config = {name: {**defaults.get(name, {}), **sections.get(name, {})} for name in names}
    path.write_text(json.dumps(config))
    return path


def write_shop(folder: Path, questions: int) -> tuple[str, Path]:
    """A database of one table and one row, by its URL, and questions with their SQL."""
    file = folder / "shop.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        connection.execute("INSERT INTO orders VALUES (1, 'lamp')")
    asked = [
        {"question": f"How many orders? ({n})", "query": "SELECT COUNT(*) FROM orders"}
        for n in range(questions)
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    return f"sqlite:///{file}", path
