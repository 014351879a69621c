"""A service that is there to be disturbed: one real stack, its jobs, and the processes of both."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from finetune_core.child import EventFile
from finetune_service.jobs.progress import training_events
from finetune_service.jobs.states import FINAL, Verb
from finetune_service.stack.parts import API, WORKER
from finetune_service.stack.settings import StackSettings
from finetune_service.stack.supervision import Supervisor
from tests.conftest import ROOT
from tests.integration.stack import Stack, stack
from tests.integration.test_service import Service
from tests.waiting import until

DATA = ROOT / "examples" / "data"
JOBS = "/v1/fine_tuning/jobs"
USUAL, ON_SMALL_DISK = "acme", "other"
WORKER_PART = f"{WORKER}cpu"
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"

ROWS_A_STEP, STEPS_AN_EPOCH, HELD_OUT = 16, 12, 16
SETTINGS = {
    "model": {"torch_dtype": "float32"},
    "training": {"precision": "float32", "save_steps": 10, "logging_steps": 1},
    "evaluation": {"num_samples": 2, "generation_max_length": 4},
}

DISK_MB = 256
HEALTHY_SECONDS = 120
GONE_SECONDS = 30


class LabJob(NamedTuple):
    """A job, and where the traces lie that it leaves."""

    id: str
    organization: str
    model: str
    folder: Path

    def events(self) -> list[dict[str, Any]]:
        """What happened to it."""
        return [event for event, _ in EventFile(self.folder / "events.jsonl").read()]

    def trained(self) -> list[dict[str, Any]]:
        """What its trainers have said, one after the other."""
        return [event for event, _ in EventFile(training_events(self.folder)).read()]

    def step(self) -> int:
        """The last step that was trained."""
        steps = [event["step"] for event in self.trained() if event["type"] == "step"]
        return steps[-1] if steps else 0

    def outcome(self) -> dict[str, Any] | None:
        """How it ended, if it has."""
        file = self.folder / "outcome.json"
        return json.loads(file.read_text()) if file.exists() else None

    def run(self) -> str | None:
        """Its flow run."""
        return json.loads((self.folder / "job.json").read_text()).get("flow_run_id")

    def digests(self) -> dict[str, str]:
        """The sha256 of its adapter's files."""
        return json.loads((self.folder / "adapter" / "manifest.json").read_text())["files"]


class Lab:
    """The stack, and two organisations that use it.

    Args:
        service: What runs.
        disk: The folder that is a disk of its own, small enough to be filled; none where nobody
            may mount one.
    """

    def __init__(self, service: Service, disk: Path | None) -> None:
        self.service, self.disk = service, disk
        self._files = {
            organization: self._upload(organization) for organization in (USUAL, ON_SMALL_DISK)
        }

    def create(
        self, name: str, *, epochs: int, organization: str = USUAL, key: str | None = None
    ) -> LabJob:
        """Makes a job.

        Args:
            name: What its model is called.
            epochs: How long it trains.
            organization: Whose it is.
            key: An idempotency key.
        """
        training, validation = self._files[organization]
        headers = {"Authorization": f"Bearer {self.service.keys[organization]}"}
        answer = httpx.post(
            self.service.url + JOBS,
            headers=headers | ({"Idempotency-Key": key} if key else {}),
            timeout=60,
            json={
                "model": "tiny",
                "training_file": training,
                "validation_file": validation,
                "suffix": name,
                "hyperparameters": {"n_epochs": epochs, "batch_size": ROWS_A_STEP},
                "config": SETTINGS,
            },
        )
        made = answer.raise_for_status().json()["id"]
        home = self._home(organization)
        return LabJob(made, organization, name, home / "jobs" / made)

    def status(self, job: LabJob) -> str | None:
        """What the API calls a job's state; nothing where it cannot say, being disturbed itself."""
        try:
            answer = self.service.ask("GET", f"{JOBS}/{job.id}", job.organization)
        except httpx.TransportError:
            return None
        if answer.is_server_error:
            return None
        return str(answer.raise_for_status().json()["status"])

    def ask(self, verb: Verb, job: LabJob) -> httpx.Response:
        """Asks something of a job."""
        return self.service.ask("POST", f"{JOBS}/{job.id}/{verb.value}", job.organization)

    def versions(self, job: LabJob) -> int:
        """How many versions of its model are registered, which nobody else registers."""
        return len(
            self._mlflow(job, "model-versions/search", filter=f"name='{job.model}'").get(
                "model_versions", []
            )
        )

    def runs(self, job: LabJob) -> int:
        """How many runs MLflow has of it."""
        return sum(job.id in json.dumps(run) for run in self.service.runs(job.organization))

    def processes(self, job: LabJob) -> list[psutil.Process]:
        """Those that work on a job, the oldest first: that of its flow."""
        run = job.run()
        found = [each for each in self.service.stack.processes() if run and _run_of(each) == run]
        return sorted(found, key=_created)

    def part(self, name: str) -> list[psutil.Process]:
        """The processes of a part, the one that its supervisor started first; no job's."""
        pid = Supervisor(StackSettings(home=self.service.stack.home)).states()[name].pid
        try:
            first = psutil.Process(pid)
            below = first.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [first, *(each for each in below if not _run_of(each))] if pid else []

    def empty_cache(self, organization: str) -> None:
        """Forgets what jobs have tokenized, so that the next does it again."""
        shutil.rmtree(self._home(organization) / "cache", ignore_errors=True)

    def end(self, job: LabJob) -> None:
        """Ends a job that does not end by itself, so that the next may run."""
        self.ask(Verb.CANCEL, job)
        for process in self.processes(job):
            process.kill()
        until(lambda: self.status(job) in FINAL, f"{job.id} cannot be ended", 200)

    def until_healthy(self) -> None:
        """Waits until all parts are as they should be.

        Raises:
            AssertionError: They are not in time.
        """
        running = self.service.stack
        until(
            lambda: running("status", "--json").returncode == 0,
            "the stack does not become healthy again",
            HEALTHY_SECONDS,
        )

    def until_api_answers(self) -> None:
        """Waits until the API is there again."""

        def answers() -> bool:
            try:
                return httpx.get(f"{self.service.url}/health").is_success
            except httpx.TransportError:
                return False

        until(answers, "the API does not come back")

    def until_gone(self, job: LabJob) -> None:
        """Waits until no process of a job is left.

        Raises:
            AssertionError: One is.
        """
        until(lambda: not self.processes(job), "a process of the job is left", GONE_SECONDS)

    def restart_api(self) -> None:
        """Kills the API, which its supervisor starts again."""
        for process in self.part(API):
            process.kill()
        self.until_api_answers()

    def _home(self, organization: str) -> Path:
        return self.service.stack.home / "organizations" / organization

    def _upload(self, organization: str) -> tuple[str, str]:
        """The ids of what the jobs learn from, and are measured by."""
        client = self.service.client(organization)
        found = []
        for name, count in (
            ("train.jsonl", STEPS_AN_EPOCH * ROWS_A_STEP),
            ("validation.jsonl", HELD_OUT),
        ):
            rows = (DATA / name).read_bytes().splitlines(keepends=True)[:count]
            made = client.files.create(file=(name, b"".join(rows)), purpose="fine-tune")
            client.files.wait_for_processing(made.id)
            found.append(made.id)
        return found[0], found[1]

    def _mlflow(self, job: LabJob, path: str, **query: str) -> dict[str, Any]:
        where = f"/mlflow/api/2.0/mlflow/{path}"
        answer = self.service.ask("GET", where, job.organization, params=query)
        return answer.raise_for_status().json()


@contextmanager
def lab(**environment: str) -> Iterator[Lab]:
    """A lab that is up; it is down and gone after the block.

    Args:
        environment: More settings of the stack.
    """
    with stack() as running:
        running.environment |= environment
        with _small_disk(running) as disk:
            yield Lab(Service(running), disk)


@contextmanager
def _small_disk(running: Stack) -> Iterator[Path | None]:
    """Puts what one organisation keeps on a disk of its own, where we may."""
    folder = running.home / "organizations" / ON_SMALL_DISK
    folder.mkdir(parents=True)
    options = f"size={DISK_MB}m,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "chaos", str(folder)], capture_output=True
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        # The stack is up still; what it holds open there goes when it is down.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _run_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_VARIABLE)
    except (psutil.Error, OSError):
        return None


def _created(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return float("inf")
