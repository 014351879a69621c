"""Providers at work: jobs of this project here, and over its own API by the official client."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import DatasetFormatError
from finetune_core.hub import open_hub
from finetune_service.jobs.providers import (
    PROVIDERS,
    Finetuning,
    FinetuningRequest,
    FinetuningStorage,
    follow,
    open_provider,
)
from finetune_service.jobs.states import Status
from finetune_service.sdk.exceptions import ApiKeyError
from tests.conftest import ROOT
from tests.integration.command import write_shop
from tests.integration.stack import need_postgresql, stack
from tests.integration.test_service import QUICK, Service
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, ROWS_A_STEP = 4, 16
# Ends where a job is there and nobody has written it down.
KILLED = """
import os, signal, sys
from pathlib import Path
from finetune_service.jobs.providers import FinetuningStorage, open_provider

change = FinetuningStorage.change
def change_or_end(self, **fields):
    if fields.get("job_id"):
        os.kill(os.getpid(), signal.SIGKILL)
    return change(self, **fields)

FinetuningStorage.change = change_or_end
open_provider(FinetuningStorage(Path(sys.argv[1]))).create_fine_tuning_job()
"""


@pytest.fixture(scope="module")
def service():
    need_postgresql()
    with stack() as running:
        yield Service(running)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory, service):
    """Where the providers work: another home than the server's, with a hub of its own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("providers") / "home"
        patch.setenv("FINETUNE_HOME", str(home))
        patch.setenv("FINETUNE_PROVIDER_RATE_LIMIT", "600/minute")
        patch.setenv("OPENAI_API_KEY", service.keys["acme"])
        for name in ("OPENAI_BASE_URL", "FINETUNE_API_URL", "FINETUNE_API_KEY"):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    lines = (ROOT / "examples/data/train.jsonl").read_bytes().splitlines(keepends=True)
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_bytes(b"".join(lines[: STEPS * ROWS_A_STEP]))
    return file


@pytest.fixture
def make(service, rows, tmp_path):
    """Makes a fine-tuning's storage."""

    def _make(provider="openai", *, long=False, path=None, **fields) -> FinetuningStorage:
        there = provider == "openai"
        held_out = str(ROOT / "examples/data/validation.jsonl")
        path = path or (ROOT / "examples/data/train.jsonl" if long else rows)
        training = {"epochs": 1, "batch_size": ROWS_A_STEP, "logging_steps": 1}
        config = {
            **QUICK,
            "model": {"name": "tiny" if there else "examples/tiny_base"},
            "dataset": {"path": str(path), "validation_path": held_out},
            "training": {**training, "epochs": 10 if long else 1},
        }
        request = FinetuningRequest(
            provider=provider,
            config=PipelineConfig.parse(config),
            base_url=f"{service.url}/v1" if there else None,
            suffix="orders",
            extra_body={"config": {**QUICK, "training": {"logging_steps": 1}}} if there else {},
            **fields,
        )
        return FinetuningStorage.create(tmp_path / "finetunings", request)

    return _make


def jobs_of(service, found: Finetuning) -> list[str]:
    """The jobs that the server has made of a fine-tuning."""
    jobs = service.client().fine_tuning.jobs.list(metadata={"finetuning": found.id})
    return [each.id for each in jobs]


@pytest.mark.parametrize("provider", [*PROVIDERS])
def test_a_job_goes_to_its_end(make, provider):
    storage = make(provider)
    model = open_provider(storage)
    made = model.create_fine_tuning_job()
    seen: list[Finetuning] = []
    found = follow(model, seen.append, 1)
    assert found.status is Status.SUCCEEDED, found.error
    assert seen[-1] == found == storage.read()
    assert {each.job_id for each in seen} == {made.job_id}
    states = [*dict.fromkeys(each.status for each in seen)]
    assert Status.RUNNING in states
    order = [Status.VALIDATING_FILES, Status.QUEUED, Status.RUNNING, Status.SUCCEEDED]
    assert states == [each for each in order if each in states]
    assert found.trained_tokens > 1000
    assert found.fine_tuned_model
    assert found.finished_at >= found.created_at
    losses = [found.metrics[name] for name in ("train_loss", "valid_loss")]
    assert all(math.isfinite(each) and each > 0 for each in losses)
    assert open_provider(FinetuningStorage(storage.folder)).create_fine_tuning_job() == found


def test_its_metrics_are_those_that_the_server_has_told_its_own_hub(make, service):
    model = open_provider(make())
    model.create_fine_tuning_job()
    found = follow(model, poll_seconds=1)
    assert found.status is Status.SUCCEEDED, found.error
    (theirs,) = [each for each in service.runs("acme") if found.job_id in json.dumps(each)]
    told = {each["key"]: each["value"] for each in theirs["data"]["metrics"]}
    assert found.metrics
    for name, value in found.metrics.items():
        assert value == pytest.approx(told[name], rel=1e-3), name
    hub = open_hub("local")
    assert hub.find_run("finetuning_id", found.id) == found.run_id
    assert hub.params(found.run_id)["fine_tuned_model"] == found.fine_tuned_model


@pytest.mark.parametrize("provider", [*PROVIDERS])
def test_a_running_job_is_cancelled(make, provider):
    model = open_provider(make(provider, long=True))
    model.create_fine_tuning_job()

    def runs() -> bool:
        found = model.retrieve_finetuning_job()
        assert not found.at_rest, found
        return found.status is Status.RUNNING

    until(runs, "it does not run", 300)
    assert model.cancel_finetuning_job().status in (Status.RUNNING, Status.CANCELLED)
    assert follow(model, poll_seconds=1).status is Status.CANCELLED
    assert model.cancel_finetuning_job().status is Status.CANCELLED


def test_killed_before_its_job_was_written_down_there_is_one_job(make, service):
    storage = make(long=True)
    command = [sys.executable, "-c", KILLED, str(storage.folder)]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ}, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    known = storage.read()
    assert (known.job_id, bool(known.file_id)) == (None, True)
    (job,) = jobs_of(service, known)
    model = open_provider(storage)
    assert model.create_fine_tuning_job().job_id == job
    assert jobs_of(service, known) == [job]
    assert model.cancel_finetuning_job().status is not Status.SUCCEEDED


def test_a_refused_file_names_its_row(make, service):
    file = ROOT / "tests/bad_data/files/no_content.jsonl"
    storage = make(path=file)
    with pytest.raises(DatasetFormatError, match=r"refuses .*no_content\.jsonl: .*row 2.*content"):
        open_provider(storage).create_fine_tuning_job()
    known = storage.read()
    assert known.status is Status.FAILED
    assert jobs_of(service, known) == []


def test_a_key_that_nobody_knows(make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ft-nobodys")
    with pytest.raises(ApiKeyError, match="does not know the key that OPENAI_API_KEY holds"):
        open_provider(make()).create_fine_tuning_job()


def test_text_to_sql_by_the_command(service, home, tmp_path):
    url, questions = write_shop(tmp_path, 40)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "finetune_service.cli", "text-to-sql"),
            *("--database", url),
            *("--questions", str(questions), "--epochs", "1"),
            *("--provider", "openai", "--base-url", f"{service.url}/v1", "--model", "tiny"),
            *("--tokenizer", "examples/tiny_base", "--json"),
        ],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "succeeded"
    assert found["fine_tuned_model"]
    assert found["metrics"]["train_loss"] > 0
    written = [file for file in home.rglob("*") if file.is_file()]
    for text in (done.stdout, done.stderr, *(each.read_text(errors="replace") for each in written)):
        assert os.environ["OPENAI_API_KEY"] not in text
