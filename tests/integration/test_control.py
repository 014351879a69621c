"""Jobs that are paused, resumed and cancelled, on a real server with a worker of one place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import psutil
import pytest

from finetune_core.child import EventFile
from finetune_core.config import Settings
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.jobs import jobs_folder
from finetune_core.storage import digest_file
from finetune_core.trainers.control import Control, Wish
from tests.conftest import ROOT
from tests.integration.command import write_config
from tests.waiting import until

pytestmark = pytest.mark.slow

DEPLOY = """
from prefect import flow
finetune = flow.from_source(source={source!r}, entrypoint="flows/finetune.py:finetune")
finetune.deploy("controlled", work_pool_name="controlled", job_variables={{"stream_output": False}})
"""


class Run:
    """A job as its flow run at a Prefect server."""

    def __init__(self, api: httpx.Client, deployment: str, config: dict, **env: str) -> None:
        body = {"parameters": {"config": config}, "job_variables": {"env": env}}
        made = api.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status()
        self._api, self.id = api, made.json()["id"]

    def read(self) -> dict:
        return self._api.get(f"/flow_runs/{self.id}").raise_for_status().json()

    def state(self) -> str:
        return self.read()["state_type"]

    def since(self, kind: str) -> list[str]:
        """When it came into a state of that kind."""
        states = self._api.get("/flow_run_states/", params={"flow_run_id": self.id}).json()
        return sorted(state["timestamp"] for state in states if state["type"] == kind)

    def until(self, kind: str) -> None:
        until(lambda: self.state() == kind, f"it is not {kind}", 120)

    def set(self, kind: str, **state) -> None:
        body = {"state": {"type": kind, **state}}
        self._api.post(f"/flow_runs/{self.id}/set_state", json=body).raise_for_status()

    def change(self, **fields) -> None:
        self._api.patch(f"/flow_runs/{self.id}", json=fields).raise_for_status()

    @property
    def folder(self) -> Path:
        return jobs_folder("local", None) / self.read()["name"]

    def trains(self) -> None:
        """Waits until its training has saved a checkpoint."""
        until(
            lambda: list(self.folder.glob("checkpoints/step-*/manifest.json")), "no checkpoint", 120
        )

    def processes(self) -> list[psutil.Process]:
        """All that work on it, on this machine."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") == self.id:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def gone(self) -> None:
        until(lambda: not self.processes(), "a process is left", 15)

    def events(self) -> list[str]:
        return [event["name"] for event, _ in EventFile(self.folder / "events.jsonl").read()]

    def outcome(self) -> dict:
        return json.loads((self.folder / "outcome.json").read_text())

    def adapter(self) -> str:
        return digest_file(self.folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def submit(tmp_path_factory, prefect_server):
    """Submits jobs to a worker that has one place."""
    folder = tmp_path_factory.mktemp("worker")
    environment = {**os.environ, **prefect_server, "PREFECT_WORKER_QUERY_SECONDS": "2"}
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "controlled"]
            + ["--type", "process", "--limit", "1"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    api = httpx.Client(base_url=prefect_server["PREFECT_API_URL"], timeout=30)
    try:
        until(lambda: api.get("/work_pools/controlled").is_success, "no pool", 120)
        deploy = [sys.executable, "-c", DEPLOY.format(source=str(ROOT))]
        subprocess.run(deploy, env=environment, cwd=folder, check=True, timeout=120)
        deployment = api.get("/deployments/name/finetune/controlled").json()["id"]

        def submit(*, env: dict[str, str] | None = None, **training) -> Run:
            sections = {
                "training": {"epochs": 6, **training},
                "evaluation": {"num_samples": 2, "generation_max_length": 4},
            }
            config = json.loads(write_config(folder / "config.json", **sections).read_text())
            return Run(api, deployment, config, **env or {})

        yield submit
    finally:
        os.killpg(worker.pid, 15)
        worker.wait(30)
        api.close()


def test_a_pause_frees_the_place_and_the_job_goes_on_to_the_same_bytes(submit):
    paused = submit()
    paused.trains()
    other = submit()
    Control(paused.folder / "control").ask(Wish.PAUSE)
    paused.until("PAUSED")
    paused.gone()
    assert not (paused.folder / "outcome.json").exists()
    other.until("COMPLETED")
    assert paused.state() == "PAUSED"
    assert paused.since("PAUSED")[0] < other.since("RUNNING")[0]
    soon = datetime.now(timezone.utc) + timedelta(seconds=2)
    paused.set("SCHEDULED", name="Resuming", state_details={"scheduled_time": soon.isoformat()})
    paused.until("COMPLETED")
    assert paused.adapter() == other.adapter()

    run = paused.read()
    assert run["name"].startswith("ftjob-")
    assert {"org:local", f"job:{run['name']}"} <= set(run["tags"])
    record = json.loads((paused.folder / "job.json").read_text())
    assert (record["id"], record["flow_run_id"]) == (run["name"], paused.id)
    names = paused.events()
    told = [name for name in names if name in ("began", "paused", "resumed", "succeeded", "failed")]
    assert told == ["began", "paused", "resumed", "succeeded"]
    assert paused.outcome()["status"] == other.outcome()["status"] == "succeeded"
    assert paused.outcome()["metrics"] == other.outcome()["metrics"]

    curves = []
    for job in (paused, other):
        client = MlflowHub(Settings(), "local")._client
        run_id = job.outcome()["registered"]["run_id"]
        assert client.get_run(run_id).info.status == "FINISHED"
        points = client.get_metric_history(run_id, "train_loss")
        curves.append([(point.step, point.value) for point in points])
        assert "events.jsonl" in [file.path for file in client.list_artifacts(run_id)]
    assert [step for step, _ in curves[0]] == [1, *range(5, 37, 5)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("processes", [1, 2], ids=["alone", "together"])
def test_a_cancelled_job_leaves_no_process_and_its_outcome(submit, processes):
    job = submit(num_processes=processes, epochs=10, batch_size=4)
    job.trains()
    assert len(job.processes()) > processes
    asked = time.monotonic()
    job.set("CANCELLING")
    job.gone()
    assert time.monotonic() - asked < 15
    job.until("CANCELLED")
    outcome = job.outcome()
    assert (outcome["status"], outcome.get("error")) == ("cancelled", None)
    assert job.events()[-1] == "cancelled"


def test_a_job_whose_hub_is_away_waits_for_it_and_is_registered_once(submit):
    run = submit(env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, epochs=1)
    until(lambda: "waits" in run.events(), "the job does not wait", 240)
    run.gone()
    assert (run.read()["state_type"], run.read()["state_name"]) == ("SCHEDULED", "WaitsForHub")
    assert not (run.folder / "outcome.json").exists()
    run.change(job_variables={})  # the hub is back
    run.set("SCHEDULED", name="Resuming")
    run.until("COMPLETED")
    registered = run.outcome()["registered"]
    versions = MlflowHub(Settings(), "local").versions(registered["model_name"])
    mine = [each.version for each in versions if each.run_id == registered["run_id"]]
    assert mine == [registered["version"]]
    assert run.events().count("succeeded") == 1
