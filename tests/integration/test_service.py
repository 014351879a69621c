"""The service as its people meet it: one `finetune-cli up`, then the official client alone."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from finetune_service.stack.settings import StackSettings
from finetune_service.stack.supervision import Supervisor
from tests.conftest import ROOT
from tests.finetune_service.jobs.test_webhooks import Receiver
from tests.integration.stack import Stack, need_postgresql, stack
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

DATA = ROOT / "examples" / "data"
STEPS, ROWS_A_STEP, HELD_OUT = 6, 16, 16
QUICK = {"evaluation": {"num_samples": 2, "generation_max_length": 4}}
FINAL = ("succeeded", "failed", "cancelled")
VERBS = ("cancel", "pause", "resume", "checkpoint")


class Service:
    """A stack, and the organisations that use it."""

    def __init__(self, running: Stack) -> None:
        self.stack = running
        (running.home / "base_models.yaml").write_text(f"tiny: {ROOT / 'examples/tiny_base'}\n")
        running.environment |= {
            "FINETUNE_BASE_MODELS": str(running.home / "base_models.yaml"),
            "FINETUNE_MAX_FILE_BYTES": "2000000",
            "FINETUNE_WEBHOOKS_INTERNAL": "true",
        }
        self.url = running.json("up")["api"]
        self.keys = {name: self._key(name) for name in ("acme", "other")}

    def client(self, organization: str = "acme", **settings: Any) -> openai.OpenAI:
        settings = {"api_key": self.keys[organization], **settings}
        return openai.OpenAI(base_url=f"{self.url}/v1", **settings)

    def ask(self, method: str, path: str, organization: str, **request: Any) -> httpx.Response:
        """What no method of the client asks."""
        headers = {"Authorization": f"Bearer {self.keys[organization]}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **request)

    def mlflow(self, organization: str, path: str, **body: Any) -> dict[str, Any]:
        """Asks MLflow through the gateway."""
        answer = self.ask("POST", f"/mlflow/api/2.0/mlflow/{path}", organization, json=body)
        return answer.raise_for_status().json()

    def registered(self, organization: str) -> dict[str, Any]:
        found = self.ask("GET", "/mlflow/api/2.0/mlflow/registered-models/search", organization)
        models = found.raise_for_status().json().get("registered_models", [])
        return {each["name"]: each for each in models}

    def runs(self, organization: str) -> list[dict[str, Any]]:
        known = self.mlflow(organization, "experiments/search", max_results=100)
        ids = [each["experiment_id"] for each in known.get("experiments", [])]
        if not ids:
            return []
        return self.mlflow(organization, "runs/search", experiment_ids=ids).get("runs", [])

    def _key(self, organization: str) -> str:
        self.stack.json("org", "create", organization)
        return self.stack.json("key", "create", organization)["key"]


@pytest.fixture(scope="module")
def service():
    need_postgresql()
    with stack() as running:
        yield Service(running)


@pytest.fixture(scope="module")
def client(service):
    return service.client()


@pytest.fixture(scope="module")
def receiver(service):
    found = Receiver()
    found.secret = service.stack.json("org", "webhook", "set", "acme", found.url)["secret"]
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def files(client):
    found = {}
    for split, name, count in (
        ("training", "train.jsonl", STEPS * ROWS_A_STEP),
        ("validation", "validation.jsonl", HELD_OUT),
        ("long", "train.jsonl", None),
    ):
        rows = (DATA / name).read_bytes().splitlines(keepends=True)[:count]
        made = client.files.create(file=(name, b"".join(rows)), purpose="fine-tune")
        found[split] = made.id
    return found


@pytest.fixture(scope="module")
def create(client, files):
    def _create(*, long=False, ours=None, **fields) -> FineTuningJob:
        hyperparameters = {"n_epochs": 10 if long else 1, "batch_size": ROWS_A_STEP}
        method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
        return client.fine_tuning.jobs.create(
            model="tiny",
            method=method,
            training_file=files["long" if long else "training"],
            validation_file=files["validation"],
            **fields,
            extra_body={"config": {**QUICK, "training": {"logging_steps": 1}}, **(ours or {})},
        )

    return _create


@pytest.fixture(scope="module")
def done(client, create, receiver):
    """A job that has gone to its end."""
    return reached(client, create(suffix="orders", metadata={"team": "sales"}).id, *FINAL)


def reached(client, job_id, *states, seconds=300) -> FineTuningJob:
    def look():
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status in states or job.status not in FINAL, job.error
        return job if job.status in states else None

    return until(look, f"{job_id} is not {states} in time", seconds)


def ask(client, job_id, verb) -> FineTuningJob:
    return client.post(f"/fine_tuning/jobs/{job_id}/{verb}", cast_to=FineTuningJob)


def trained(client, job_id, share=0.0) -> None:
    """Waits until a job has trained more than a share of its steps."""

    def look():
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status not in FINAL, job.error
        return job.progress > share

    until(look, f"{job_id} does not train on from {share}", 300)


def test_a_job_goes_from_its_upload_to_a_model(client, done, receiver):
    assert done.status == "succeeded", done.error
    assert done.trained_tokens
    assert done.metadata == {"team": "sales"}
    told = [event.name for event in client.fine_tuning.jobs.list_events(done.id, limit=4)]
    assert (told[0], told[-1]) == ("succeeded", "created")
    assert len(told) > 4  # the client has asked for more pages by itself
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(done.id))
    assert checkpoints[0].step_number == STEPS
    rows = csv.DictReader(io.StringIO(client.files.content(done.result_files[0]).text))
    assert [int(row["step"]) for row in rows] == [*range(1, STEPS + 1)]
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    jobs = client.fine_tuning.jobs.list(metadata={"team": "sales"})
    assert [each.id for each in jobs] == [done.id]

    def webhook():
        events = [
            client.webhooks.unwrap(body, headers, secret=receiver.secret)
            for body, headers in receiver.got
        ]
        return [event.type for event in events if event.data.id == done.id]

    assert until(webhook, "the webhook is not told") == ["fine_tuning.job.succeeded"]


def test_its_run_and_its_model_are_in_its_organisations_workspace_alone(service, done):
    assert set(service.registered("acme")) == {"orders", "base.tiny_base"}
    (run,) = service.runs("acme")
    assert run["info"]["status"] == "FINISHED"
    assert done.id in json.dumps(run)
    assert service.registered("other") == {}
    assert service.runs("other") == []


def test_its_logs_are_told_without_the_servers_paths(service, done):
    logs = service.ask("GET", f"/v1/fine_tuning/jobs/{done.id}/logs", "acme").text.splitlines()
    assert "==> train.log <==" in logs
    assert not [line for line in logs if str(service.stack.home) in line or str(ROOT) in line]
    path = f"/v1/fine_tuning/jobs/{done.id}/logs?after={len(logs) - 5}&tail=2"
    assert service.ask("GET", path, "acme").text.splitlines() == logs[-2:]


# What a route wants to be sent before it looks whether the thing is there.
BODIES = {
    "parts": {"files": {"data": b"x"}},
    "complete": {"json": {"part_ids": ["part"]}},
    "permissions": {"json": {"project_ids": ["p"]}},
}


def test_another_organisations_key_finds_nothing_on_any_route(service, client, files, done):
    upload = client.uploads.create(
        bytes=1, filename="a.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(done.id)))
    theirs = {
        "file_id": files["training"],
        "upload_id": upload.id,
        "job_id": done.id,
        "checkpoint": checkpoint.fine_tuned_model_checkpoint,
        "permission_id": "permission",
        "model": done.fine_tuned_model,
        "ref": "orders@1",
        "name": "orders",
    }
    # As long and of the same form, but of nobody: the last letters are other ones.
    nobodys = {name: value[:-3] + "000" for name, value in theirs.items()}
    nobodys["checkpoint"] = theirs["checkpoint"].replace(done.id[-8:], "00000000")
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    asked = 0
    for path, methods in paths.items():
        for method in methods if "{" in path else ():
            body = BODIES.get(path.rpartition("/")[2], {}) if method == "post" else {}
            answers = []
            for ids in (theirs, nobodys):
                answer = service.ask(method.upper(), path.format(**ids), "other", **body)
                told = answer.text
                for name, value in ids.items():
                    told = told.replace(value, name)
                answers.append((answer.status_code, told))
            assert answers[0] == answers[1], (method, path)
            assert answers[0][0] == 404, (method, path, answers)
            asked += 1
    assert asked >= 25
    for path in ("/v1/files", "/v1/fine_tuning/jobs", "/v1/hub/models", "/v1/hub/adapters"):
        assert service.ask("GET", path, "other").json()["data"] == []
    assert [each.id for each in service.client("other").models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        service.client("other").fine_tuning.jobs.create(
            model="tiny", training_file=files["training"]
        )
    assert client.fine_tuning.jobs.retrieve(done.id) == done
    assert client.files.retrieve(files["training"]).id == files["training"]


def test_every_error_is_its_class(service, client, files, done):
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(
            model="tiny", training_file=files["training"], hyperparameters={"n_epochs": 0}
        )
    assert refused.value.param == "hyperparameters.n_epochs"
    with pytest.raises(openai.AuthenticationError):
        service.client(api_key="sk-ft-wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(f"ftjob-{'0' * 24}")
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("a.jsonl", b"x" * 2_000_001), purpose="fine-tune")
    assert refused.value.status_code == 413
    sent = []
    hooks = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]})
    with pytest.raises(openai.ConflictError):
        service.client(http_client=hooks).fine_tuning.jobs.cancel(done.id)
    assert len(sent) == 1


def test_status_names_the_database(service):
    assert service.stack.json("status")["database"] == "PostgreSQL, private"


@pytest.mark.slow
def test_pause_frees_the_slot_for_another_job(service, client, create):
    """One worker with one place: states and times are printed."""
    began, seen = time.monotonic(), {}

    def note(name: str, job: FineTuningJob) -> FineTuningJob:
        if seen.get(name) != job.status:
            seen[name] = job.status
            where = f"{job.progress:.0%}, place {job.queue_position}"
            line = f"{time.monotonic() - began:6.1f} s  {name:<6} {job.status:<10} {where}\n"
            sys.stdout.write(line)
        return job

    def until_both(**wanted: str) -> None:
        def look() -> bool:
            for name, job in jobs.items():
                found = note(name, client.fine_tuning.jobs.retrieve(job.id))
                assert found.status in (wanted[name], "succeeded") or found.status not in FINAL
            return all(seen[name] == status for name, status in wanted.items())

        until(look, f"{seen}, not {wanted}", 400)

    jobs = {"long": create(long=True, suffix="long"), "short": create(suffix="short")}
    trained(client, jobs["long"].id)
    until_both(long="running", short="queued")
    assert client.fine_tuning.jobs.retrieve(jobs["short"].id).queue_position == 1
    ask(client, jobs["long"].id, "pause")
    until_both(long="paused", short="running")
    paused = client.fine_tuning.jobs.retrieve(jobs["long"].id).progress
    until_both(long="paused", short="succeeded")
    assert client.fine_tuning.jobs.retrieve(jobs["long"].id).progress == paused
    ask(client, jobs["long"].id, "resume")
    trained(client, jobs["long"].id, paused)
    until_both(long="running", short="succeeded")
    steps = [
        event.data["step"]
        for event in client.fine_tuning.jobs.list_events(jobs["long"].id, limit=100)
        if event.name == "step"
    ]
    assert steps == [*range(steps[0], 0, -1)]  # each once: none lost, none done again
    runs = [each for each in service.runs("acme") if jobs["long"].id in json.dumps(each)]
    assert len(runs) == 1  # the curve goes on in the same run
    asked = time.monotonic()
    ask(client, jobs["long"].id, "cancel")
    until_both(long="cancelled", short="succeeded")
    assert time.monotonic() - asked < 30


@pytest.mark.slow
def test_the_more_urgent_begin_first(client, create):
    runs = create(long=True)
    trained(client, runs.id)
    made = {priority: create(ours={"priority": priority}) for priority in ("low", "normal", "high")}

    def places():
        return [client.fine_tuning.jobs.retrieve(each.id).queue_position for each in made.values()]

    until(lambda: places() == [3, 2, 1], "their places are others", 30)
    ask(client, runs.id, "cancel")
    reached(client, made["high"].id, "running")
    assert reached(client, made["low"].id, "queued").queue_position == 2
    for each in made.values():
        assert ask(client, each.id, "cancel").status in ("cancelled", "running")
    for each in made.values():
        reached(client, each.id, "cancelled", seconds=60)


@pytest.mark.slow
def test_the_commands_drive_the_api(service, client, done):
    environment = {
        "FINETUNE_API_URL": service.url,
        "FINETUNE_API_KEY": service.keys["acme"],
    }

    def command(*arguments):
        ran = service.stack(*arguments, "--json", **environment)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    assert command("job", "get", "orders")["id"] == done.id
    assert "==> train.log <==" in command("job", "logs", done.id)["lines"]
    assert "orders@1" in [each["id"] for each in command("hub", "list")["adapters"]]
    assert command("hub", "get", "orders")["id"] == "orders@1"
    made = command(
        "job", "create", "-m", "tiny", "-d", str(DATA / "train.jsonl"), "--priority", "low"
    )
    assert made["priority"] == "low"
    assert command("job", "cancel", made["id"])["status"] in ("cancelled", "running")
    reached(client, made["id"], "cancelled", seconds=60)


@pytest.mark.slow
def test_retraining_is_a_job_of_its_own(service):
    """It is submitted by a flow that ends; it can be paused like any other, and is not doubled."""
    config = {
        "model": {"name": str(ROOT / "examples/tiny_base")},
        **QUICK,
        "dataset": {"path": str(DATA / "train.jsonl")},
        "training": {"epochs": 10, "batch_size": ROWS_A_STEP, "logging_steps": 1},
        "registry": {"model_name": "nightly"},
    }
    with service.stack.prefect() as prefect:
        found = {each["name"]: each["id"] for each in prefect._post("/deployments/filter")}

        def retrain() -> dict[str, Any]:
            path = f"/deployments/{found['nightly']}/create_flow_run"
            made = prefect._post(path, parameters={"config": config, "organization": "acme"})

            def ended():
                run = prefect._client.get(f"/flow_runs/{made['id']}")
                return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

            return until(ended, "the retrain flow goes on", 120)

        assert retrain()["state_type"] == "COMPLETED"
        client = service.client()
        job = until(
            lambda: [each for each in client.fine_tuning.jobs.list() if each.name == "nightly"],
            "there is no job",
        )[0]
        trained(client, job.id)
        ask(client, job.id, "pause")
        reached(client, job.id, "paused")
        assert retrain()["state_type"] == "COMPLETED"
        runs = prefect._post(
            "/flow_runs/filter", flow_runs={"tags": {"all_": ["retrain:nightly", "org:acme"]}}
        )
        assert [run["name"] for run in runs] == [job.id]
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


@pytest.mark.slow
def test_a_job_that_a_worker_has_taken_and_not_begun_is_cancelled_at_once(service, client, create):
    with service.stack.prefect() as prefect:
        job = create(long=True)

        def state() -> str:
            (run,) = prefect._post("/flow_runs/filter", flow_runs={"name": {"any_": [job.id]}})
            return run["state_type"]

        until(lambda: state() == "PENDING", "no worker takes it")
        ask(client, job.id, "cancel")
        reached(client, job.id, "cancelled", seconds=40)


@pytest.mark.slow
def test_a_cancelled_job_whose_worker_is_dead_ends_all_the_same(service, client, create):
    job = create(long=True)
    trained(client, job.id)
    supervisor = Supervisor(StackSettings(home=service.stack.home))
    supervisor.stop(["worker-cpu"])
    try:
        assert ask(client, job.id, "cancel").status == "running"
        assert reached(client, job.id, "cancelled").error is None
    finally:
        service.stack.json("up")


@pytest.mark.slow
def test_the_model_is_deleted_and_the_job_stays(service, client, done):
    """The last that looks at the model."""
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)
    assert "latest_versions" not in service.registered("acme")["orders"]
    assert client.fine_tuning.jobs.retrieve(done.id).status == "succeeded"


@pytest.mark.slow
def test_too_many_requests_are_told_when_to_come_back_and_no_job_is_disturbed(service):
    """The last: the API has another limit from here on."""
    worker = service.stack.parts()["worker-cpu"]["pid"]
    service.stack.json("up")
    before = service.stack.parts()["api"]["pid"]
    assert service.stack("up", FINETUNE_RATE_LIMIT="3/minute").returncode == 0
    client = service.client(max_retries=0)
    for _ in range(3):
        client.models.list()
    with pytest.raises(openai.RateLimitError) as refused:
        client.models.list()
    assert re.fullmatch(r"\d+", refused.value.response.headers["retry-after"])
    after = service.stack.parts()
    assert after["api"]["pid"] != before
    assert after["worker-cpu"]["pid"] == worker
