"""Jobs over the API, to their end: a real Prefect server and worker, the real API."""

from __future__ import annotations

import json

import pytest

from finetune_service.exceptions import ConflictError, NotFoundError
from finetune_service.jobs import Status
from finetune_service.sdk import Client, FineTuningJob
from tests.finetune_service.api.stack import running
from tests.finetune_service.sdk.small import asked
from tests.integration.command import cli
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("stack")) as (_, server):
        yield server


@pytest.fixture(autouse=True)
def _environment(server, monkeypatch):
    monkeypatch.setenv("FINETUNE_API_URL", server.url)
    monkeypatch.setenv("FINETUNE_API_KEY", server.key())


def command(*arguments):
    done = cli(*arguments, "-json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_over_the_api(server):
    job = FineTuningJob(**asked(model="tiny", hyperparameters={"epochs": 8, "batch_size": 16}))
    job_id = job.start()
    assert job.start() == job_id
    assert job.get_status().status in (Status.VALIDATING_FILES, Status.QUEUED, Status.RUNNING)
    assert [each["id"] for each in command("list", "fine-tune-job")["jobs"]] == [job_id]

    next(event for event in job.events(follow=True) if event.name == "step")
    job.pause()
    paused = job.wait(200)
    assert paused.status is Status.PAUSED
    with pytest.raises(ConflictError, match="paused"):
        job.checkpoint()
    assert command("job", "resume", job_id)["status"] in ("queued", "running")
    done = FineTuningJob.attach("orders").wait(400)
    assert (done.status, done.progress) == (Status.SUCCEEDED, 100.0)

    events = [*job.events()]
    assert len({event.id for event in events}) == len(events)
    metrics = job.get_metrics()
    assert metrics["evaluation"]["tuned"]["loss"] > 0
    steps = [event.data["step"] for event in events if event.name == "step"]
    assert steps == [*range(1, metrics["total_steps"] + 1)]
    model = job.get_model()
    assert model.startswith("ft:tiny:acme:orders:")
    with Client() as client:
        assert client.models.get(model).id == model
    shown = command("get", "fine-tuning-job", "orders")
    assert (shown["id"], shown["fine_tuned_model"]) == (job_id, model)
    assert "==> train.log <==" in cli("job", "logs", job_id).stdout

    assert command("get", "hub-adapter", "orders")["id"] == "orders@1"
    assert [each["id"] for each in command("list", "hub-adapter")["adapters"]] == ["orders@1"]
    assert [each["type"] for each in command("list", "hub-model")["models"]] == ["base"]


def test_a_job_is_created_and_cancelled_by_command(server):
    created = command(
        "create", "fine-tune-job", "-basemodel", "tiny", "-dataset", "examples/data/train.jsonl",
        "-output-model", "bert-qa", "-epochs", "3", "-lora-rank", "16",
    )  # fmt: skip
    assert created["hyperparameters"]["lora_rank"] == 16
    assert command("cancel", "fine-tuning-job", "bert-qa")["id"] == created["id"]
    job = FineTuningJob.attach(created["id"])
    until(lambda: job.get_status().status is Status.CANCELLED, "it goes on", 60)
    assert job.cancel()


def test_another_organisation_sees_nothing(server, monkeypatch):
    monkeypatch.setenv("FINETUNE_API_KEY", server.key("other"))
    assert command("job", "list") == {"jobs": []}
    with pytest.raises(NotFoundError):
        FineTuningJob.attach("orders")
