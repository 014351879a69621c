"""finetune-cli up, status, logs and down on real servers."""

from __future__ import annotations

import json
import signal
import socket

import psutil
import pytest

from finetune_service.stack.supervision import wait_until
from tests.integration.command import write_config, write_shop
from tests.integration.conftest import free_port
from tests.integration.stack import need_postgresql, stack

PARTS = {"postgres", "prefect", "mlflow", "api", "worker-cpu"}


@pytest.fixture(scope="module")
def running():
    need_postgresql()
    with stack() as running:
        running.first = running.json("up")
        yield running


def test_up_starts_every_part_on_postgresql_and_gives_the_first_key(running):
    assert running.first["key"].startswith("sk-ft-")
    assert running.first["database"] == "PostgreSQL, private"
    status = running.json("status")
    assert status["running"]
    assert {part["name"]: part["health"] for part in status["parts"]} == dict.fromkeys(
        PARTS, "healthy"
    )
    assert all(part["version"] and part["memory_mb"] for part in status["parts"])
    assert [(pool["name"], pool["waiting"], pool["running"]) for pool in status["pools"]] == [
        ("cpu", 0, 0),
        ("gpu", 0, 0),
    ]
    shown = running("status").stdout
    assert "PostgreSQL" in shown
    assert running.first["prefect"] in shown


def test_up_again_changes_nothing(running):
    before = {name: part["pid"] for name, part in running.parts().items()}
    again = running.json("up")
    assert again["key"] is None
    assert {name: part["pid"] for name, part in running.parts().items()} == before


@pytest.mark.slow
def test_another_setting_restarts_only_what_it_concerns(running):
    before = {name: part["pid"] for name, part in running.parts().items()}
    assert running("up", FINETUNE_API_PORT=str(free_port())).returncode == 0
    after = {name: part["pid"] for name, part in running.parts().items()}
    assert {name for name in after if after[name] != before[name]} == {"api"}
    assert running.json("up")["api"] == running.first["api"]


def test_everything_in_prefect_yaml_is_deployed_as_it_says(running):
    with running.prefect() as prefect:
        found = {each["name"]: each for each in prefect._post("/deployments/filter")}
    assert {name: each["work_pool_name"] for name, each in found.items()} == {
        "cpu": "cpu",
        "gpu": "gpu",
        "nightly": "cpu",
        "sweep": "cpu",
        "evaluate_registered": "cpu",
        "text_to_sql": "cpu",
    }
    for each in found.values():
        assert each["enforce_parameter_schema"]
        assert each["job_variables"]["stream_output"] is False
        assert each["global_concurrency_limit"]["limit"]
    (schedule,) = found["nightly"]["schedules"]
    assert not schedule["active"]


@pytest.mark.slow
def test_text_to_sql_on_a_worker_submits_the_job_that_learns(running, tmp_path):
    url, questions = write_shop(tmp_path, 24)
    config = json.loads(write_config(tmp_path / "config.json").read_text())
    config["dataset"] = {"path": str(questions), "validation_ratio": 0.5}
    config["sql"] = {"databases": [{"url": url}]}
    with running.prefect() as prefect:
        deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}

        def state(run_id: str) -> str:
            return prefect._client.get(f"/flow_runs/{run_id}")["state_type"]

        def end(run_id: str) -> str:
            ended = ("COMPLETED", "FAILED", "CRASHED")
            assert wait_until(lambda: state(run_id) in ended, 180)
            return state(run_id)

        path = f"/deployments/{deployed['text_to_sql']}/create_flow_run"
        run = prefect._post(path, parameters={"config": config})
        assert end(run["id"]) == "COMPLETED"
        wanted = {"flow_runs": {"tags": {"all_": ["text_to_sql"]}}}
        submitted = [
            each
            for each in prefect._post("/flow_runs/filter", **wanted)
            if each["deployment_id"] == deployed["cpu"]
        ]
        assert len(submitted) == 1
        assert end(submitted[0]["id"]) == "COMPLETED"
    job = submitted[0]["name"]
    folder = running.home / "organizations" / "local" / "jobs" / job
    assert "execution_accuracy" in (folder / "report" / "report.md").read_text()


def test_no_secret_is_in_a_command_line_or_a_log(running):
    # What has just ended might have left its part of it.
    secrets = {file.read_text() for file in (running.home / "stack" / "secrets").iterdir()}
    secrets.add(running.first["key"])
    assert len(secrets) == 5
    commands = []
    for process in running.processes():
        try:
            commands.append(" ".join(process.cmdline()))
        except psutil.NoSuchProcess:
            continue
    logs = [file.read_text() for file in running.home.rglob("*.log")]
    shown = [running("status").stdout, running("logs").stdout]
    for text in (*commands, *logs, *shown):
        assert not [secret for secret in secrets if secret in text]
    for file in (running.home / "stack").rglob("*"):
        if file.is_file() and any(secret in file.read_text() for secret in secrets):
            assert file.stat().st_mode & 0o077 == 0, file


def test_logs_of_one_part(running):
    shown = running("logs", "prefect", "--lines", "5")
    assert shown.returncode == 0
    assert shown.stdout
    unknown = running("logs", "nonsense")
    assert unknown.returncode == 2
    assert "worker-cpu" in unknown.stderr


@pytest.mark.slow
def test_a_job_runs_on_the_worker_and_up_finds_the_one_that_was_lost_with_everything(
    running, tmp_path
):
    config = json.loads(write_config(tmp_path / "config.json").read_text())
    with running.prefect() as prefect:
        deployed = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}
        path = f"/deployments/{deployed['cpu']}/create_flow_run"
        run = prefect._post(path, parameters={"config": config})

        def state() -> str:
            return prefect._client.get(f"/flow_runs/{run['id']}")["state_type"]

        assert wait_until(lambda: state() in ("COMPLETED", "FAILED", "CRASHED"), 180)
        assert state() == "COMPLETED"
        config["training"]["epochs"] = 10
        run = prefect._post(path, parameters={"config": config})
        assert wait_until(lambda: state() == "RUNNING", 60)
        for process in running.processes():
            process.kill()
        running.json("up")
        states = prefect._client.get(f"/flow_run_states/?flow_run_id={run['id']}")
        (crashed,) = [each for each in states if each["type"] == "CRASHED"]
        assert "its process is gone" in crashed["message"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_up_repairs_what_the_death_of_the_supervisor_left(running, number):
    pid = int((running.home / "stack" / "supervisor.pid").read_text())
    psutil.Process(pid).send_signal(number)
    assert wait_until(lambda: not psutil.pid_exists(pid), 60)
    assert running("status").returncode == 1
    assert running.json("up")["key"] is None
    assert running.json("status")["running"]


@pytest.mark.slow
def test_a_part_that_is_killed_comes_back(running):
    before = running.parts()["mlflow"]["pid"]
    psutil.Process(before).kill()

    def back() -> bool:
        part = running.parts()["mlflow"]
        return part["health"] == "healthy" and part["pid"] != before

    assert wait_until(back, 90)


def test_down_leaves_no_process_and_may_be_said_twice(running):
    assert running("down").returncode == 0
    assert not running.processes()
    assert running("down").returncode == 0
    assert {part["health"] for part in running.parts().values()} == {"stopped"}


def test_a_taken_port_is_named_with_its_setting():
    need_postgresql()
    with stack() as found, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = found("up", FINETUNE_MLFLOW_PORT=str(port))
        assert done.returncode == 2
        assert str(port) in done.stderr
        assert "FINETUNE_MLFLOW_PORT" in done.stderr
        assert not found.processes()


def test_wrong_settings_are_named_all_together():
    with stack() as found:
        done = found("up", FINETUNE_API_PORT="0", FINETUNE_DATABASE_URL="mysql://u:hidden@h/d")
        assert done.returncode == 2
        assert "FINETUNE_API_PORT" in done.stderr
        done = found("up", FINETUNE_DATABASE_URL="mysql://u:hidden@h/d")
        assert done.returncode == 2
        assert "FINETUNE_DATABASE_URL" in done.stderr
        assert "hidden" not in done.stderr


@pytest.mark.slow
def test_sqlite_for_a_single_user():
    with stack() as found:
        done = found("up", "--sqlite")
        assert done.returncode == 0, done.stderr
        assert "single user" in done.stderr
        status = found.json("status")
        assert status["running"]
        assert status["database"].startswith("SQLite")
        assert "postgres" not in found.parts()
