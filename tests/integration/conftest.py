"""Real servers for the tests that drive the flow against them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest


@contextmanager
def serving(name: str, *command: object, health: str, **environment: str) -> Iterator[None]:
    """Runs a server while the block lasts; waits until it says that it is healthy."""

    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            assert process.poll() is None, f"{name} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{name} is not healthy in time"
            try:
                if httpx.get(health, timeout=2).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[dict[str, str]]:
    """The environment in which commands use a Prefect server instead of starting one each."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with serving(
        "Prefect", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port,
        health=f"{url}/health",
    ):  # fmt: skip
        yield {"PREFECT_API_URL": url}


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which commands track to an MLflow server."""
    port = free_port()
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{port}"
    with serving(
        "MLflow", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1,
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", folder / "artifacts",
        health=f"{url}/health",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    ):  # fmt: skip
        yield {"MLFLOW_TRACKING_URI": url}
