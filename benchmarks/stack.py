"""A stack of a benchmark's own: PostgreSQL, Prefect, MLflow, a worker and the API, then gone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from finetune_service.stack.parts import MARK

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

    @property
    def prefect(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.environment['FINETUNE_PREFECT_PORT']}/api"

    @property
    def prefect_auth(self) -> str:
        """What Prefect asks its clients for, as `user:password`."""
        return f"admin:{(self.home / 'stack' / 'secrets' / 'prefect-password').read_text()}"

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


class Others:
    """How busy other programs keep this machine, beside a stack and the benchmark itself.

    Args:
        home: The stack's.
    """

    def __init__(self, home: Path) -> None:
        self._mark = str(home / "stack")
        self._begin = self._now()

    def share(self) -> float:
        """The part of all cores that they have taken since the last time that this was asked."""
        before, self._begin = self._begin, self._now()
        whole, busy, ours = (now - then for now, then in zip(self._begin, before, strict=True))
        return max(0.0, (busy - ours) / whole)

    def wait(self, seconds: float, quiet: float = 0.1) -> None:
        """Waits until they are quiet, but no longer than some seconds."""
        deadline = time.monotonic() + seconds
        self.share()
        while time.monotonic() < deadline:
            time.sleep(1)
            if self.share() < quiet:
                return

    def _now(self) -> tuple[float, float, float]:
        """Seconds of all cores, those in which they worked, and those of them for us."""
        every = psutil.cpu_times()
        ours = _worked(psutil.Process())
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    ours += _worked(process)
            except (psutil.Error, OSError):
                continue
        whole = time.monotonic() * (os.cpu_count() or 1)
        return whole, sum(every) - every.idle - every.iowait - every.guest - every.guest_nice, ours


def _worked(process: psutil.Process) -> float:
    """Seconds that a process and its children which have ended have worked."""
    took = process.cpu_times()
    return float(took.user + took.system + took.children_user + took.children_system)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
