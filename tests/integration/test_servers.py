"""The flow against real servers of Prefect and MLflow."""

from __future__ import annotations

import httpx
import pytest

from finetune_core.config import Settings
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.storage import digest_file
from tests.integration.command import finetune, write_config


@pytest.fixture(scope="module")
def servers(prefect_server, mlflow_server):
    return prefect_server | mlflow_server


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, servers):
    folder = tmp_path_factory.mktemp("servers")
    config = write_config(folder / "config.json", training={"epochs": 1})
    outcome = finetune(
        "--config", config, "--output", folder, "--name", "served", "--json", **servers
    )
    assert outcome.code == 0, outcome.err
    return outcome


def prefect(servers, kind, **filters):
    answer = httpx.post(f"{servers['PREFECT_API_URL']}/{kind}/filter", json=filters)
    return answer.raise_for_status().json()


def test_the_version_comes_back_from_the_server_as_it_was(outcome, servers, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers["MLFLOW_TRACKING_URI"])
    hub = MlflowHub(Settings(), "local")
    files = hub.download(hub.get("served", "candidate"), tmp_path)
    assert hub.get("served", "candidate").version == outcome.json["model_version"]
    digests = [
        digest_file(type(tmp_path)(folder) / "adapter_model.safetensors")
        for folder in (files, outcome.json["adapter_dir"])
    ]
    assert digests[0] == digests[1]


def test_prefect_shows_six_tasks_done_both_reports_and_the_progress(outcome, servers):
    artifacts = {each["key"]: each for each in prefect(servers, "artifacts")}
    artifact = artifacts[f"local-{outcome.json['job_id']}-report"]
    assert "| exact_match |" in artifact["data"]
    data = artifacts[f"local-{outcome.json['job_id']}-data"]["data"]
    assert data.startswith("# good")
    assert "| to learn from, held out |" in data
    run = {"flow_runs": {"id": {"any_": [artifact["flow_run_id"]]}}}
    tasks = prefect(servers, "task_runs", **run)
    assert {each["name"].rpartition("-")[0] for each in tasks} == set(outcome.json["stages"])
    assert {each["state_type"] for each in tasks} == {"COMPLETED"}
    progress = [
        each["data"] for each in prefect(servers, "artifacts", **run) if each["type"] == "progress"
    ]
    assert progress == [100.0]
