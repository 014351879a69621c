"""The API as it is served: a process of its own over a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from finetune_service.organizations import Organizations
from tests.integration.conftest import free_port
from tests.waiting import until

FACTORY = "finetune_service.api.app:create_app"


class Server:
    """A served API, and those who may use it."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.home, self.process, self.port, self.log = home, process, port, log
        self.url = f"http://127.0.0.1:{port}"
        self.organizations = Organizations(home)

    def key(self, organization: str = "acme") -> str:
        """A new key, of an organisation that is made where there is none."""
        if organization not in {each.name for each in self.organizations.list()}:
            self.organizations.create(organization)
        return self.organizations.create_key(organization).secret

    def client(self, organization: str = "acme", **settings: Any) -> openai.OpenAI:
        """The official client."""
        key = settings.pop("api_key", None) or self.key(organization)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **settings)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def served(home: Path, factory: str | None = None, **environment: str) -> Iterator[Server]:
    """Serves the API over a home while the block lasts.

    Args:
        home: `FINETUNE_HOME`.
        factory: What makes the app; without it, the API's own command serves it.
        environment: More settings.
    """
    port = free_port()
    command = ["finetune_service.api"]
    if factory:
        command = ["uvicorn", "--factory", factory, "--port", str(port)]
    log = home.with_name(f"{home.name}-{port}.log")
    settings = {"FINETUNE_HOME": str(home), "FINETUNE_API_PORT": str(port), **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Server(home, process, port, log)
    try:
        until(lambda: answers(server), f"the API is not healthy: {log}")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def answers(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    try:
        return httpx.get(f"{server.url}/health").is_success
    except httpx.TransportError:
        return False
