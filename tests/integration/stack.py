"""A stack of a test's own: a home that PostgreSQL's user can enter, free ports, nothing left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_service.stack.parts import MARK
from finetune_service.stack.postgres import BINARIES
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.settings import StackSettings
from tests.conftest import ROOT
from tests.integration.conftest import free_port


class Stack:
    """The commands on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "FINETUNE_HOME": str(home),
            "FINETUNE_POOLS": "cpu",
            "FINETUNE_WORKER_QUERY_SECONDS": "1",
            **{f"FINETUNE_{part}_PORT": str(free_port()) for part in ("API", "PREFECT", "MLFLOW")},
        }

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs finetune-cli."""
        return subprocess.run(
            [sys.executable, "-m", "finetune_service.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=200,
        )

    def json(self, *arguments: str) -> dict[str, Any]:
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def parts(self) -> dict[str, dict[str, Any]]:
        found = json.loads(self("status", "--json").stdout)
        return {part["name"]: part for part in found["parts"]}

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.home / "stack"):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def prefect(self) -> PrefectApi:
        port = int(self.environment["FINETUNE_PREFECT_PORT"])
        return PrefectApi(StackSettings(home=self.home, prefect_port=port))


def need_postgresql() -> None:
    """Skips where nobody has installed it."""
    if not any(glob(f"{folder}/initdb") for folder in BINARIES):
        pytest.skip("needs PostgreSQL's programs (Debian: apt install postgresql)")


@contextmanager
def stack() -> Iterator[Stack]:
    # pytest's own folders are closed to PostgreSQL's user, and their names long for a socket's.
    home = Path(tempfile.mkdtemp(prefix="stack-"))
    home.chmod(0o755)
    found = Stack(home)
    try:
        yield found
    finally:
        found("down")
        left = found.processes()
        for process in left:
            process.kill()
        shutil.rmtree(home, ignore_errors=True)
        assert not left
