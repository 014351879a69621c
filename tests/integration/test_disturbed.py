"""Jobs that are disturbed: a killed trainer, an interrupted command, a dead tracking server."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from finetune_core.child import EventFile
from finetune_core.config import Settings
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.storage import digest_file
from tests.integration.command import finetune, start, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("disturbed") / "config.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config, prefect_server):
    """The digest of the adapter of a job that nothing disturbed."""
    out = tmp_path_factory.mktemp("out")
    outcome = finetune("--config", config, "--output", out, "--json", **prefect_server)
    assert outcome.code == 0, outcome.err
    return adapter(outcome.json["adapter_dir"])


def adapter(folder: str) -> str:
    return digest_file(Path(folder) / "adapter_model.safetensors")


def trainer_after_checkpoint(process, out: Path) -> tuple[psutil.Process, str]:
    """Waits until the first checkpoint is there, and gives the trainer and the job's id."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                training = "finetune_core.trainers.engine:train" in child.cmdline()
            except psutil.Error:
                continue
            if training and (saved := list(out.glob("*/checkpoints/step-*/manifest.json"))):
                return child, saved[0].parents[2].name
        time.sleep(0.01)
    raise AssertionError("no checkpoint in time")


def test_a_killed_trainer_goes_on_from_its_checkpoint_to_the_same_bytes(
    tmp_path, config, undisturbed, prefect_server
):
    process = start("--config", config, "--output", tmp_path, "--json", **prefect_server)
    trainer, job = trainer_after_checkpoint(process, tmp_path)
    trainer.kill()
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    began = [
        event["step"]
        for event, _ in EventFile(tmp_path / job / "logs" / "train-events.jsonl").read()
        if event["type"] == "began"
    ]
    assert began[0] == 0
    assert began[1] >= 3, "the retry began anew"
    assert adapter(str(tmp_path / job / "adapter")) == undisturbed


@pytest.mark.slow
def test_an_interrupted_job_leaves_no_process_and_resumes_to_the_same_bytes(
    tmp_path, config, undisturbed, prefect_server
):
    process = start("--config", config, "--output", tmp_path, "--json", **prefect_server)
    trainer, job = trainer_after_checkpoint(process, tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "error: interrupted" in err
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    resumed = finetune("--resume", job, "--output", tmp_path, "--json", **prefect_server)
    assert resumed.code == 0, resumed.err
    assert resumed.json["job_id"] == job
    assert resumed.json["stages"]["tokenize"]["cached"]
    assert adapter(resumed.json["adapter_dir"]) == undisturbed


def test_a_killed_command_takes_its_trainer_with_it(tmp_path, config, prefect_server):
    process = start("--config", config, "--output", tmp_path, **prefect_server)
    trainer, _ = trainer_after_checkpoint(process, tmp_path)
    process.kill()
    process.communicate(timeout=10)
    trainer.wait(timeout=10)


@pytest.mark.slow
def test_a_dead_tracking_server_costs_seconds_and_the_job_resumes_when_it_is_back(
    tmp_path, config, prefect_server
):
    outcome = finetune(
        "--config", config, "--output", tmp_path, "--name", "untracked", "--json",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9", **prefect_server,
    )  # fmt: skip
    assert outcome.code == 1
    assert "MLflow does not answer" in outcome.err
    assert "--resume" in outcome.err
    (job,) = [path for path in tmp_path.iterdir() if path.name.startswith("ftjob-")]
    assert (job / "adapter" / "adapter_model.safetensors").is_file()
    assert (job / "report" / "report.md").is_file()
    resumed = finetune("--resume", job.name, "--output", tmp_path, "--json", **prefect_server)
    assert resumed.code == 0, resumed.err
    cached = {verb for verb, stage in resumed.json["stages"].items() if stage["cached"]}
    assert cached == {"sanitize", "tokenize", "train", "checkpoint", "evaluate"}
    hub = MlflowHub(Settings(), "local")
    points = hub._client.get_metric_history(resumed.json["run_id"], "train_loss")
    assert [point.step for point in points] == [1, 5, 10]
