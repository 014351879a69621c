"""Jobs by command, the specification's forms among them, word for word: real processes here."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.finetune_service.sdk.small import CONFIG
from tests.integration.command import cli

CREATE = (
    'create fine-tune-job -basemodel "examples/tiny_base" -dataset "examples/data/train.jsonl"'
    ' -output-model "bert-qa" -epochs 3 -lora-rank 16'
)


def run(line, code=0):
    done = cli(*shlex.split(line))
    assert done.returncode == code, done.stdout + done.stderr
    return done


def found(line, code=0):
    return json.loads(run(f"{line} --json", code).stdout)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cli") / "home"
        patch.setenv("FINETUNE_HOME", str(home))
        patch.delenv("FINETUNE_API_URL", raising=False)
        yield home


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(json.dumps(CONFIG))
    return file


@pytest.fixture(scope="module")
def job(config):
    """A job that is created at once, and looked at until it is done."""
    created = found(f"{CREATE} -config {config}")
    assert created["status"] in ("queued", "running")
    watched = run(f"get fine-tuning-job {created['id']} -watch")
    assert "register: bert-qa@1 as candidate" in watched.stderr
    assert "succeeded" in watched.stdout
    return created["id"]


def test_what_a_job_was_asked_and_has_measured(job):
    shown = found(f"job get {job}")
    assert (shown["id"], shown["name"], shown["status"]) == (job, "bert-qa", "succeeded")
    assert shown["model"] == "examples/tiny_base"
    assert shown["hyperparameters"]["n_epochs"] == 3
    assert shown["hyperparameters"]["lora_rank"] == 16
    assert shown["metrics"]["step"] == shown["metrics"]["total_steps"]
    assert shown["metrics"]["evaluation"]["tuned"].keys() >= {"loss", "bleu"}


def test_lists(job):
    assert job in run("list fine-tune-job").stdout
    for form in ("list fine-tuning-job -limit 1", "job list"):
        assert [each["id"] for each in found(form)["jobs"]] == [job]


def test_a_job_goes_by_its_id_and_by_its_name(job):
    assert "succeeded" in run("get fine-tuning-job bert-qa").stdout
    for form in ("get fine-tuning-job bert-qa", f"get fine-tune-job {job}"):
        assert found(form)["id"] == job


def test_the_hub(job):
    assert [each["id"] for each in found("list hub-adapter")["adapters"]] == ["bert-qa@1"]
    assert found("get hub-adapter bert-qa")["parameters"]["epochs"] == 3
    assert "base" in run("list hub-model").stdout
    assert "there is no model bert-qa" in run("get hub-model bert-qa", 2).stderr
    base = found("get hub-adapter bert-qa@candidate")["model_id"]
    assert found(f"get hub-model {base}")["type"] == "base"


def test_events_and_logs(job):
    told = [each["name"] for each in found(f"job events {job}")["events"]]
    assert told[0] == "began"
    assert told[-1] == "succeeded"
    lines = run(f"job events {job} --follow --json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == told
    assert "The job has succeeded." in run(f"job events {job}").stdout
    assert "==> train.log <==" in run(f"job logs {job}").stdout


def test_what_a_finished_job_cannot(job):
    for form in ("cancel fine-tune-job", "job pause", "job checkpoint"):
        assert f"{job} is succeeded, so it cannot" in run(f"{form} {job}", 2).stderr
    refused = found(f"job resume {job}", 2)
    assert refused["error"]["error"] == "ConflictError"


def test_a_job_is_cancelled_by_its_name(config):
    created = found(f"{CREATE} -output-model other -config {config}")
    assert found("cancel fine-tuning-job other")["status"] == "cancelled"
    assert run(f"job get {created['id']} --watch", 130).stdout
    assert found("job cancel other")["status"] == "cancelled"  # twice does no harm


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{CREATE} -epoch 3", "--epochs"),
        (f"{CREATE} -lora-rnk 3", "--lora-rank"),
        ("create fine-tune-job -basemodel x", "Missing option"),
        ("create fine-tune-jobs", "No such command"),
        ("get fine-tuning-job nothing", "there is no job nothing"),
        ("cancel fine-tuning-job nothing", "there is no job nothing"),
        (f"{CREATE} -epochs 99", "hyperparameters.n_epochs"),
        (f"{CREATE} -dataset none.csv", "none.csv"),
        (f"{CREATE} -basemodel none/none", "none/none"),
    ],
)
def test_what_is_wrong_ends_with_2_and_is_said(line, says):
    assert says in run(line, 2).stderr


def test_shells_complete_the_ids_of_jobs(job, monkeypatch):
    monkeypatch.setenv("_FINETUNE_CLI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "finetune-cli get fine-tuning-job ftjob-")
    monkeypatch.setenv("COMP_CWORD", "3")
    program = Path(sys.executable).with_name("finetune-cli")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert job in done.stdout.split()


def test_the_api_is_asked_where_the_environment_names_it(monkeypatch):
    monkeypatch.setenv("FINETUNE_API_URL", "http://127.0.0.1:9")
    for form in ("list hub-model", "list fine-tune-job"):
        assert "there is no API key" in run(form, 2).stderr
    monkeypatch.setenv("FINETUNE_API_KEY", "sk-ft-secret")
    away = run("get hub-adapter orders", 1)
    assert "the API at http://127.0.0.1:9/v1 does not answer" in away.stderr
    assert "sk-ft-secret" not in away.stdout + away.stderr
