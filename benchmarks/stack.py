"""A stack of a benchmark's own: PostgreSQL, Prefect, MLflow, a worker and the API, then gone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
BASE, ROWS = ROOT / "examples" / "tiny_base", ROOT / "examples" / "data" / "train.jsonl"
HELD_OUT = ROWS.with_name("validation.jsonl")
ORGANIZATION = "local"  # the one that the first `up` makes a key of
MODEL = "tiny"  # what requests call the base


class Stack:
    """What `finetune-cli up` starts, on ports that are free.

    Args:
        home: Where it keeps everything.
        settings: More variables of the environment.
    """

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        models = home / "base_models.yaml"
        models.write_text(f"{MODEL}: {BASE}\n")
        parts = ("API", "PREFECT", "MLFLOW")
        ports = dict(zip(parts, _free_ports(len(parts)), strict=True))
        self.environment = {
            **os.environ,
            "FINETUNE_HOME": str(home),
            "FINETUNE_POOL": "cpu",
            "FINETUNE_POOLS": "cpu",
            "FINETUNE_BASE_MODELS": str(models),
            **{f"FINETUNE_{part}_PORT": str(port) for part, port in ports.items()},
            **settings,
        }
        self.api = self.key = ""

    def up(self) -> None:
        """Starts everything."""
        found = self._cli("up", "--json")
        self.api, self.key = found["api"], found["key"]

    def down(self) -> None:
        """Ends everything."""
        self._cli("down", "--json")

    def _cli(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "finetune_service.cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextmanager
def stack(**settings: str) -> Iterator[Stack]:
    """A stack with an empty home, which is not up yet; it is down and gone after the block."""
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    home.chmod(0o755)  # PostgreSQL has a user of its own, who must be able to enter
    found = Stack(home, settings)
    try:
        yield found
    finally:
        found.down()
        shutil.rmtree(home, ignore_errors=True)


def machine(*also: str) -> str:
    """The machine and what is busy on it, for the title of a table.

    Args:
        also: What the benchmark itself runs there.
    """
    load = psutil.getloadavg()[0]
    return f"{os.cpu_count()} cores, shared by {', '.join(also)}; load before {load:.1f}"


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
