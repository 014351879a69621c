"""Jobs on this machine: real processes that train, pause, go on, are cancelled and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_core.config import PipelineConfig, Settings
from finetune_core.data.dataset import Dataset
from finetune_core.exceptions import DatasetNotFoundError, ModelNotFoundError
from finetune_core.job_events import JobEvents
from finetune_core.jobs import open_job, working_on
from finetune_core.types import new_job_id
from finetune_service.exceptions import ConflictError, InvalidValueError, NotFoundError
from finetune_service.jobs import JobRecord, Status, Verb
from finetune_service.jobs.store import JobStore
from finetune_service.sdk import FineTuningJob, JobNotStartedError, JobStatus
from finetune_service.sdk.local import LocalBackend
from tests.conftest import ROOT
from tests.finetune_service.sdk.small import alive_in, asked
from tests.waiting import until


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("sdk") / "home"
        patch.setenv("FINETUNE_HOME", str(home))
        patch.delenv("FINETUNE_API_URL", raising=False)
        yield home


def jobs(home):
    return home / "organizations" / "local" / "jobs"


def group_of(home, job):
    return json.loads((jobs(home) / job.id / "process.json").read_text())["pid"]


@pytest.mark.slow
def test_a_job_is_started_paused_resumed_and_gives_its_model(home):
    job = FineTuningJob(**asked(hyperparameters={"epochs": 6, "batch_size": 16}))
    job_id = job.start()
    assert job.start() == job_id  # no second one
    first = job.get_status()
    assert isinstance(first, JobStatus)
    assert (first.job_id, first.progress, first.error) == (job_id, 0.0, None)
    assert first.status in (Status.QUEUED, Status.RUNNING)

    next(event for event in job.events(follow=True) if event.name == "step")
    job.pause()
    job.pause()
    paused = job.wait(120)
    assert paused.status is Status.PAUSED
    assert 0 < paused.progress < 100
    until(lambda: not alive_in(group_of(home, job)), "the process of a paused job goes on")
    assert [*job.events()][-1].name == "paused"
    with pytest.raises(ConflictError, match="is paused, so it cannot checkpoint"):
        job.checkpoint()
    with pytest.raises(ConflictError, match="has no model"):
        job.get_model()

    again = FineTuningJob.attach("orders")
    assert again.id == job_id
    assert again.resume().status in (Status.QUEUED, Status.RUNNING)
    done = again.wait(240)
    assert (done.status, done.progress, done.error) == (Status.SUCCEEDED, 100.0, None)
    assert done.updated_at > paused.updated_at

    metrics = again.get_metrics()
    assert metrics["step"] == metrics["total_steps"]
    assert 0 < metrics["train_loss"] < 9
    assert metrics["evaluation"]["tuned"]["loss"] < metrics["evaluation"]["base"]["loss"]

    events = [*again.events()]
    steps = [event.data["step"] for event in events if event.name == "step"]
    assert steps == [*range(1, metrics["total_steps"] + 1)]  # none twice, none left out
    assert [event.time for event in events] == sorted(event.time for event in events)

    base = AutoModelForCausalLM.from_pretrained(ROOT / "examples" / "tiny_base")
    model = PeftModel.from_pretrained(base, again.get_model())
    assert any(torch.any(p != 0) for name, p in model.named_parameters() if "lora_B" in name)

    with pytest.raises(ConflictError, match="is succeeded, so it cannot cancel"):
        again.cancel()


def test_a_cancelled_job_leaves_no_process(home):
    job = FineTuningJob(**asked(hyperparameters={"epochs": 10}))
    job.start()
    next(event for event in job.events(follow=True) if event.name == "began")
    assert job.get_status().status is Status.RUNNING
    assert job.cancel()
    assert job.cancel()
    assert job.get_status().status is Status.CANCELLED
    until(lambda: not alive_in(group_of(home, job)), "a process is left", 5)
    with pytest.raises(ConflictError, match="is cancelled, so it cannot resume"):
        job.resume()


def test_a_killed_job_has_failed(home):
    job = FineTuningJob(**asked())
    job.start()
    os.killpg(group_of(home, job), signal.SIGKILL)
    failed = job.wait(30)
    assert failed.status is Status.FAILED
    assert "ended without a word" in failed.error


def test_a_job_that_the_flow_refuses_tells_why(home, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    job = FineTuningJob(**asked(dataset=rows))
    job.start()
    rows.unlink()  # the process has yet to import what reads it
    failed = job.wait(60)
    assert failed.status is Status.FAILED
    assert "rows.jsonl" in failed.error


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"hyperparameters": {"epochs": 0}}, InvalidValueError, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"lora_rank": -1}}, InvalidValueError, "lora_rank"),
        ({"hyperparameters": {"ranks": 1}}, InvalidValueError, "hyperparameters.ranks"),
        ({"method": "dpo"}, InvalidValueError, "dpo is not supported"),
        ({"config": {"training": {"output_dir": "x"}}}, InvalidValueError, "output_dir"),
        ({"dataset": "examples/data/none.jsonl"}, DatasetNotFoundError, "none.jsonl"),
        ({"validation": "examples/data/none.jsonl"}, DatasetNotFoundError, "none.jsonl"),
        ({"model": "examples/data"}, ModelNotFoundError, "holds no model"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(home, wrong, error, says):
    before = [*jobs(home).glob("*")]
    with pytest.raises(error, match=says):
        FineTuningJob(**asked(**wrong)).start()
    assert [*jobs(home).glob("*")] == before


def test_what_has_not_been_started_or_is_not_there(home):
    with pytest.raises(JobNotStartedError, match="has not been started"):
        FineTuningJob(**asked()).get_status()
    for name in ("nothing", "ftjob-000000000000000000000000", "../local"):
        with pytest.raises(NotFoundError, match="there is no job"):
            FineTuningJob.attach(name)


def test_a_job_from_a_shell_is_seen_but_not_ended(home):
    config = PipelineConfig.parse(
        {"model": {"name": "tiny"}, "dataset": {"path": "some/rows.jsonl"}}
    )
    backend = LocalBackend()
    opened = open_job(config, "local")
    assert backend.get(opened.id).status is Status.QUEUED
    with working_on(opened):
        info = backend.get("tiny-rows")
        assert (info.id, info.model, info.status) == (opened.id, "tiny", Status.RUNNING)
        with pytest.raises(ConflictError, match="was started in a shell"):
            FineTuningJob.attach(opened.id).cancel()
    assert opened.id in {each.id for each in backend.list(100)}


def test_rows_in_memory_become_a_file_that_their_content_names():
    rows = [{"prompt": "a", "completion": "b"}]
    first, second = (FineTuningJob("m", Dataset("mine", rows))._wanted.dataset for _ in range(2))
    assert first == second
    assert first.startswith(str(Settings().home))
    assert Dataset.load(first).rows == rows


def test_importing_the_sdk_loads_nothing_heavy():
    module = "tests.finetune_service.sdk.small"
    done = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""


def test_a_job_of_the_service_is_shown_and_left_alone(home):
    config = PipelineConfig.parse(
        {"model": {"name": "examples/tiny_base"}, "dataset": {"path": "examples/data/train.jsonl"}}
    )
    record = JobRecord(
        id=new_job_id(),
        name="theirs",
        organization="local",
        created_at=1,
        deployment="finetune/cpu",
        model="tiny",
    )
    store = JobStore(home)
    store.add(record, config)
    JobEvents(store.job(record)).say("queued", "The job is queued.")
    backend = LocalBackend()
    assert backend.get("theirs").status is Status.QUEUED
    with pytest.raises(ConflictError, match="Prefect"):
        backend.ask(Verb.CANCEL, "theirs")
    assert store.outcome(record) is None
