"""Workers that are stopped, killed or lost while a job trains, on a real stack."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_core.child import EventFile
from finetune_core.trainers.control import Control, Wish
from finetune_service.stack.automations import LOST_RUNS, LOST_SECONDS
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.processes import all_ended, of_runs, wait_until
from tests.integration.command import write_config
from tests.integration.stack import Stack, need_postgresql, stack

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

STEPS_AN_EPOCH, BEFORE = 24, 5
LONG = {"epochs": 10, "batch_size": 4, "save_steps": 100_000, "logging_steps": 1}


class Job:
    """A job that trains long and saves by itself only after each epoch, as its flow run."""

    def __init__(self, running: Stack, prefect: PrefectApi, folder: Path, **training: Any) -> None:
        sections = {
            "training": {**LONG, **training},
            "evaluation": {"num_samples": 2, "generation_max_length": 4},
        }
        config = json.loads(write_config(folder / "config.json", **sections).read_text())
        deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}
        path = f"/deployments/{deployed['cpu']}/create_flow_run"
        self.id = prefect._post(path, parameters={"config": config})["id"]
        self.total_steps = config["training"]["epochs"] * STEPS_AN_EPOCH
        self._jobs, self._prefect = running.home / "organizations" / "local" / "jobs", prefect

    def read(self) -> dict[str, Any]:
        return self._prefect._client.get(f"/flow_runs/{self.id}")

    @property
    def state(self) -> str:
        return self.read()["state_type"]

    def states(self) -> list[dict[str, Any]]:
        found = self._prefect._client.get(f"/flow_run_states/?flow_run_id={self.id}")
        return sorted(found, key=lambda state: state["timestamp"])

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        assert wait_until(condition, seconds), self.read()["state"]

    def ends_well(self) -> None:
        ended = ("COMPLETED", "FAILED", "CANCELLED")
        self.until(lambda: self.state in ended, 400)
        assert self.state == "COMPLETED", self.read()["state"]

    @cached_property
    def folder(self) -> Path:
        self.until(lambda: self.read()["name"].startswith("ftjob-"))
        return self._jobs / self.read()["name"]

    def events(self) -> list[str]:
        return [event["name"] for event, _ in EventFile(self.folder / "events.jsonl").read()]

    def steps(self, kind: str = "step") -> list[int]:
        events = EventFile(self.folder / "logs" / "train-events.jsonl").read()
        return [event["step"] for event, _ in events if event["type"] == kind]

    def trains(self) -> None:
        self.until(lambda: len(self.steps()) >= BEFORE)

    def saved(self) -> int:
        """The step of the newest whole checkpoint."""
        whole = self.folder.glob("checkpoints/step-*/manifest.json")
        return max(int(file.parent.name.removeprefix("step-")) for file in whole)

    def went_on_from(self, step: int) -> None:
        """It has gone on from the checkpoint of its stop, and no step is missing or done twice."""
        assert self.steps("began") == [0, step]
        assert self.steps() == list(range(1, self.total_steps + 1))

    def processes(self) -> list[psutil.Process]:
        return of_runs([self.id])


@pytest.fixture(scope="module")
def running():
    need_postgresql()
    with stack() as running:
        running.json("up")
        yield running


@pytest.fixture
def prefect(running):
    with running.prefect() as prefect:
        yield prefect


def worker_of(running: Stack) -> psutil.Process:
    return psutil.Process(running.parts()["worker-cpu"]["pid"])


def test_a_stopped_worker_hands_its_jobs_back(running, prefect, tmp_path):
    worker = worker_of(running)
    job = Job(running, prefect, tmp_path, epochs=5)
    job.trains()
    family = [worker, *worker.children(recursive=True)]
    assert len(family) > 3  # Prefect's worker, the flow, its trainer

    worker.send_signal(signal.SIGTERM)
    assert wait_until(lambda: all_ended(family), 60)
    assert not job.processes()
    state = job.read()["state"]
    assert (state["type"], state["name"]) == ("SCHEDULED", "HandedBack")
    assert job.saved() == job.steps()[-1]
    assert job.events()[-1] == "handed_back"

    stopped = job.steps()[-1]
    job.ends_well()  # on the worker that the supervisor has started again
    job.went_on_from(stopped)
    assert job.events()[-1] == "succeeded"


@pytest.mark.parametrize("outlived", [False, True], ids=["with its worker", "without"])
def test_down_hands_jobs_back_and_up_goes_on_with_them(running, prefect, tmp_path, outlived):
    job = Job(running, prefect, tmp_path)
    job.trains()
    if outlived:
        worker = worker_of(running)
        below = worker.children()
        worker.kill()
        assert wait_until(lambda: all_ended(below), 10), "Prefect's worker outlives its parent"
        assert job.processes()
    assert running.json("down") == {"handed_back_jobs": 1}
    assert not running.processes()
    stopped = job.steps()[-1]
    running.json("up")
    job.ends_well()
    job.went_on_from(stopped)


def test_a_job_that_has_only_begun_is_handed_back_too(running, prefect, tmp_path):
    worker = worker_of(running)
    job = Job(running, prefect, tmp_path, epochs=1)
    assert wait_until(job.processes, 60)
    worker.send_signal(signal.SIGTERM)
    job.until(lambda: "HandedBack" in [state["name"] for state in job.states()], 60)
    job.ends_well()
    assert job.steps() == list(range(1, job.total_steps + 1))


def test_a_lost_run_is_found_and_no_run_that_waits_is_taken_for_one(running, prefect, tmp_path):
    paused = Job(running, prefect, tmp_path)
    paused.trains()
    Control(paused.folder / "control").ask(Wish.PAUSE)
    paused.until(lambda: paused.state == "PAUSED")

    lost = Job(running, prefect, tmp_path)
    lost.trains()
    family = lost.processes()
    for process in family:
        process.suspend()
    stopped = time.time()
    lost.until(lambda: "Crashed" in [state["name"] for state in lost.states()], LOST_SECONDS + 60)
    crashed = next(state for state in lost.states() if state["name"] == "Crashed")
    assert "No heartbeat" in crashed["message"]
    assert time.time() - stopped > LOST_SECONDS - 35
    assert paused.state == "PAUSED"
    for process in family:
        process.kill()


def test_the_automation_is_there_once_however_often_it_is_deployed(running, prefect):
    def found() -> list[dict[str, Any]]:
        return prefect._post("/automations/filter")

    (before,) = found()
    assert before["name"] == LOST_RUNS["name"]
    assert before["enabled"]
    assert before["trigger"]["within"] == LOST_SECONDS
    prefect.keep_automation({**LOST_RUNS, "description": "something else"})
    assert [each["description"] for each in found()] == ["something else"]
    prefect.keep_automation(LOST_RUNS)
    (after,) = found()
    assert after["id"] == before["id"]
    assert after["description"] == before["description"]


def waiting_run(prefect: PrefectApi) -> str:
    """A run of a pool without a worker."""
    deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}
    path = f"/deployments/{deployed['gpu']}/create_flow_run"
    config = {"model": {"name": "m"}, "dataset": {"path": "p"}}
    return prefect._post(path, parameters={"config": config})["id"]


def put(prefect: PrefectApi, run: str, kind: str) -> None:
    state = {"type": kind, "name": "X"}
    prefect._post(f"/flow_runs/{run}/set_state", state=state, force=True)


@pytest.mark.parametrize(
    ("kind", "then"),
    [
        ("PENDING", "SCHEDULED"),
        ("RUNNING", "SCHEDULED"),
        ("CRASHED", "SCHEDULED"),
        ("CANCELLING", "CANCELLED"),
        ("COMPLETED", "COMPLETED"),
        ("FAILED", "FAILED"),
        ("PAUSED", "PAUSED"),
        ("SCHEDULED", "SCHEDULED"),
    ],
)
def test_what_handing_back_makes_of_each_state(prefect, kind, then):
    run = waiting_run(prefect)
    put(prefect, run, kind)
    assert prefect.hand_back(run) == then
    state = prefect._client.get(f"/flow_runs/{run}")["state"]
    assert state["type"] == then
    assert (state["name"] == "HandedBack") == (kind != then == "SCHEDULED")
    put(prefect, run, "CANCELLED")


def test_what_a_stopped_worker_has_taken_and_not_begun_is_found(prefect):
    run = waiting_run(prefect)
    put(prefect, run, "PENDING")
    # As Prefect's worker does before it starts a process.
    prefect._client.patch(f"/flow_runs/{run}/labels", **{"prefect.worker.name": "stopped"})
    assert prefect.pending("gpu", "stopped") == [run]
    assert prefect.pending("gpu", "other") == prefect.pending("cpu", "stopped") == []
    put(prefect, run, "CANCELLED")
