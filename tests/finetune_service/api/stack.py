"""The whole service, small: Prefect on SQLite, one worker with one slot, the API."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.conftest import ROOT
from tests.finetune_service.api.server import Server, served
from tests.integration.conftest import free_port, serving
from tests.waiting import until

PREFECT_YAML = """
name: finetune-service
pull:
  - prefect.deployments.steps.set_working_directory: {{directory: "{root}"}}
deployments:
  - name: cpu
    entrypoint: flows/finetune.py:finetune
    tags: [finetune]
    enforce_parameter_schema: true
    work_pool: {{name: cpu, job_variables: {{stream_output: false}}}}
"""


class Stack:
    """Its parts can be stopped and started one by one; what they know lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        self.port = free_port()
        self.prefect_url = f"http://127.0.0.1:{self.port}/api"
        self.base_models = folder / "base_models.yaml"
        self.base_models.write_text(f"tiny: {ROOT / 'examples' / 'tiny_base'}\n")
        self.environment = {
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_HOME": str(folder / "prefect"),
            "FINETUNE_HOME": str(self.home),
            "FINETUNE_POOL": "cpu",
            "FINETUNE_BASE_MODELS": str(self.base_models),
            "FINETUNE_WEBHOOKS_INTERNAL": "true",
        }

    @contextmanager
    def prefect(self) -> Iterator[None]:
        with serving(
            "Prefect", "prefect", "server", "start", "--host", "127.0.0.1", "--port", self.port,
            health=f"{self.prefect_url}/health", **self.environment,
        ):  # fmt: skip
            yield

    def deploy(self) -> None:
        file = self.folder / "prefect.yaml"
        file.write_text(PREFECT_YAML.format(root=ROOT))
        httpx.post(f"{self.prefect_url}/work_pools/", json={"name": "cpu", "type": "process"})
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all",
             "--prefect-file", str(file)],
            cwd=ROOT, env={**os.environ, **self.environment}, check=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
        )  # fmt: skip

    @contextmanager
    def worker(self) -> Iterator[None]:
        log = self.folder / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu",
                 "--type", "process", "--name", "only", "--limit", "1"],
                cwd=ROOT,
                env={**os.environ, **self.environment, "PREFECT_WORKER_QUERY_SECONDS": "2"},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        workers = f"{self.prefect_url}/work_pools/cpu/workers/filter"
        try:
            until(lambda: httpx.post(workers, json={}).json(), f"no worker: {log}")
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)

    @contextmanager
    def api(self, **environment: str) -> Iterator[Server]:
        with served(self.home, **{**self.environment, **environment}) as server:
            yield server


@contextmanager
def running(folder: Path) -> Iterator[tuple[Stack, Server]]:
    """Everything, while the block lasts."""
    stack = Stack(folder)
    with ExitStack() as parts:
        parts.enter_context(stack.prefect())
        stack.deploy()
        parts.enter_context(stack.worker())
        server = parts.enter_context(stack.api())
        yield stack, server
