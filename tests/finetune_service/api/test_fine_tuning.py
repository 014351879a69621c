"""Jobs through the official client: a real Prefect server, a real worker, real trainings."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from finetune_core.storage import digest_file
from finetune_service.jobs.states import LEADS, Status, Verb
from finetune_service.jobs.webhooks import Webhooks
from tests.conftest import ROOT
from tests.finetune_service.api.server import Server
from tests.finetune_service.api.stack import Stack, running
from tests.finetune_service.jobs.test_webhooks import Receiver
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHORT = {"hyperparameters": {"n_epochs": 1, "batch_size": 64}}
QUICK = {"evaluation": {"num_samples": 2, "generation_max_length": 4}}
FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[tuple[Stack, Server]]:
    with running(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def receiver(service) -> Iterator[Receiver]:
    found = Receiver()
    found.secret = (
        Webhooks(service[0].home, internal=True).set("acme", found.url).secret.get_secret_value()
    )
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def api(service) -> Server:
    return service[1]


@pytest.fixture(scope="module")
def client(api) -> openai.OpenAI:
    return api.client("acme")


@pytest.fixture(scope="module")
def stranger(api) -> openai.OpenAI:
    return api.client("other")


@pytest.fixture(scope="module")
def files(client) -> dict[str, str]:
    data = ROOT / "examples" / "data"
    return {
        f"{split}_file": client.files.create(file=data / name, purpose="fine-tune").id
        for split, name in (("training", "train.jsonl"), ("validation", "validation.jsonl"))
    }


@pytest.fixture(scope="module")
def create(client, files):
    def _create(config=None, **fields) -> FineTuningJob:
        wanted = {"model": "tiny", **files, **SHORT, **fields}
        return client.fine_tuning.jobs.create(**wanted, extra_body={"config": config or QUICK})

    return _create


@pytest.fixture(scope="module")
def done(client, create, receiver) -> FineTuningJob:
    """A job that has gone to its end."""
    job = create(suffix="Orders!", seed=7, metadata={"team": "sales", "round": "1"})
    assert job.status in ("validating_files", "queued")
    return reached(client, job.id, *FINAL)


def reached(client, job_id, *states, seconds=240) -> FineTuningJob:
    def look():
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status in states or job.status not in FINAL, job.error
        return job if job.status in states else None

    return until(look, f"{job_id} is not {states} in time", seconds)


def ask(client, job_id, verb) -> FineTuningJob:
    return client.post(f"/fine_tuning/jobs/{job_id}/{verb}", cast_to=FineTuningJob)


def names(client, job_id) -> list[str]:
    return [event.name for event in client.fine_tuning.jobs.list_events(job_id)]


class TestDone:
    def test_the_job_is_as_the_contract_has_it(self, done, files):
        assert done.status == "succeeded"
        assert done.error is None
        assert done.fine_tuned_model == f"ft:tiny:acme:Orders:{done.id[-8:]}"
        assert (done.organization_id, done.model, done.seed) == ("acme", "tiny", 7)
        assert done.training_file == files["training_file"]
        assert done.validation_file == files["validation_file"]
        assert done.trained_tokens > 10_000
        assert done.created_at <= done.finished_at <= time.time() + 1
        assert done.metadata == {"team": "sales", "round": "1"}
        assert done.hyperparameters.n_epochs == 1
        assert done.hyperparameters.batch_size == 64
        assert done.hyperparameters.learning_rate_multiplier == 1
        assert done.method.type == "supervised"
        assert (done.progress, done.estimated_finish, done.queue_position) == (1.0, None, None)

    def test_it_is_found_by_its_name(self, client, done):
        assert client.fine_tuning.jobs.retrieve("Orders").id == done.id

    def test_events_page_by_themselves(self, client, done):
        events = list(client.fine_tuning.jobs.list_events(done.id, limit=3))
        assert [event.id for event in events] == [
            event.id for event in client.fine_tuning.jobs.list_events(done.id, limit=100)
        ]
        assert len({event.id for event in events}) == len(events) > 10
        told = [event.name for event in events]
        assert (told[0], told[-1]) == ("succeeded", "created")
        assert {"began", "stage_began", "stage_ended", "step", "checkpoint"} <= set(told)
        assert sorted((event.created_at for event in events), reverse=True) == [
            event.created_at for event in events
        ]
        steps = [event.data for event in events if event.type == "metrics"]
        assert all(data["step"] <= data.get("total_steps", 99) for data in steps)

    def test_checkpoints(self, client, done):
        found = list(client.fine_tuning.jobs.checkpoints.list(done.id, limit=1))
        assert [each.step_number for each in found] == sorted(
            (each.step_number for each in found), reverse=True
        )
        last = found[0]
        assert last.fine_tuning_job_id == done.id
        assert last.fine_tuned_model_checkpoint.startswith(f"{done.fine_tuned_model}:ckpt-step-")
        assert last.metrics.step == last.step_number
        assert 0 < last.metrics.valid_loss == last.metrics.full_valid_loss < 20
        assert 0 <= last.metrics.valid_mean_token_accuracy <= 1
        permissions = client.fine_tuning.checkpoints.permissions
        with pytest.raises(openai.BadRequestError, match="no projects"):
            list(permissions.create(last.fine_tuned_model_checkpoint, project_ids=["p"]))
        assert list(permissions.list(last.fine_tuned_model_checkpoint)) == []
        with pytest.raises(openai.NotFoundError):
            permissions.delete("p", fine_tuned_model_checkpoint=last.fine_tuned_model_checkpoint)
        with pytest.raises(openai.NotFoundError):
            list(permissions.list(f"{done.fine_tuned_model}:ckpt-step-99999"))

    def test_the_result_file_holds_the_steps(self, client, done):
        (result,) = done.result_files
        assert client.files.retrieve(result).purpose == "fine-tune-results"
        rows = list(csv.DictReader(io.StringIO(client.files.content(result).text)))
        assert list(rows[0]) == [
            "step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"
        ]  # fmt: skip
        losses = [float(row["train_loss"]) for row in rows if row["train_loss"]]
        assert losses[-1] < losses[0]
        assert float(rows[-1]["valid_loss"]) > 0

    def test_the_model_and_its_files(self, client, api, done, tmp_path):
        known = {model.id: model for model in client.models.list()}
        assert known["tiny"].owned_by == "operator"
        model = client.models.retrieve(done.fine_tuned_model)
        assert model == known[done.fine_tuned_model]
        assert (model.owned_by, model.created) == ("acme", done.finished_at)
        listed = client.get(f"/models/{model.id}/files", cast_to=httpx.Response).json()["data"]
        zipped = client.get(f"/models/{model.id}/content", cast_to=httpx.Response).content
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path)
            manifest = json.loads(archive.read("manifest.json"))["files"]
        assert {each["name"]: each["sha256"] for each in listed} == manifest
        assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(manifest)
        for name, digest in manifest.items():
            assert digest_file(tmp_path / name) == digest
        with pytest.raises(openai.ConflictError):
            client.models.delete("tiny")

    def test_the_webhook_is_told(self, client, done, receiver):
        def told():
            events = [
                client.webhooks.unwrap(body, headers, secret=receiver.secret)
                for body, headers in receiver.got
            ]
            return [event for event in events if event.data.id == done.id]

        (event,) = until(told, "the webhook is not told", 30)
        assert event.type == "fine_tuning.job.succeeded"

    def test_nothing_can_be_asked_of_it(self, api, done):
        http = httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {api.key()}"})
        for verb in Verb:
            answer = http.post(f"/fine_tuning/jobs/{done.id}/{verb.value}")
            assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
            assert answer.json()["error"]["code"] == "conflict"

    def test_the_client_tries_a_conflict_once(self, api, done):
        sent = []
        client = api.client(http_client=openai.DefaultHttpxClient(
            event_hooks={"request": [sent.append]}
        ))  # fmt: skip
        with pytest.raises(openai.ConflictError):
            client.fine_tuning.jobs.cancel(done.id)
        assert len(sent) == 1


@pytest.fixture(scope="module")
def theirs(client, done) -> dict[str, str]:
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(done.id)))
    return {
        "checkpoint": checkpoint.fine_tuned_model_checkpoint,
        "model": done.fine_tuned_model,
        "result": done.result_files[0],
        "job": done.id,
        "name": "Orders",
    }


class TestOthers:
    ROUTES = (
        ("GET", "/fine_tuning/jobs/{job}"),
        ("DELETE", "/fine_tuning/jobs/{job}"),
        ("GET", "/fine_tuning/jobs/{name}"),
        *(("POST", f"/fine_tuning/jobs/{{job}}/{verb.value}") for verb in Verb),
        ("GET", "/fine_tuning/jobs/{job}/events"),
        ("GET", "/fine_tuning/jobs/{job}/checkpoints"),
        ("GET", "/fine_tuning/checkpoints/{checkpoint}/permissions"),
        ("DELETE", "/fine_tuning/checkpoints/{checkpoint}/permissions/p"),
        ("GET", "/models/{model}"),
        ("GET", "/models/{model}/files"),
        ("GET", "/models/{model}/content"),
        ("DELETE", "/models/{model}"),
        ("GET", "/files/{result}"),
        ("GET", "/files/{result}/content"),
    )

    @pytest.mark.parametrize("prefix", ["/v1", ""])
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_an_id_of_theirs_is_as_one_of_nobody(self, api, theirs, method, path, prefix):
        nobodys = {  # what holds another comes first
            "checkpoint": "ft:tiny:acme:Orders:00000000:ckpt-step-1",
            "model": "ft:tiny:acme:Orders:00000000",
            "result": f"file-{'0' * 24}",
            "job": f"ftjob-{'0' * 24}",
            "name": "Nobody",
        }
        headers = {"Authorization": f"Bearer {api.key('other')}"}
        answers = []
        for ids in (theirs, nobodys):
            answer = httpx.request(
                method, api.url + prefix + path.format(**ids), headers=headers, timeout=30
            )
            told = answer.text
            for kind, value in ids.items():
                told = told.replace(value, kind)
            shown = {name for name in answer.headers if name not in ("x-request-id", "date")}
            answers.append((answer.status_code, told, shown))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404

    def test_their_file_is_no_file(self, stranger, files):
        for name in files:
            wanted = {"training_file": f"file-{'0' * 24}", name: files[name]}
            with pytest.raises(openai.NotFoundError) as refused:
                stranger.fine_tuning.jobs.create(model="tiny", **wanted)
            assert refused.value.param.endswith("_file")

    def test_nothing_of_theirs_is_listed(self, stranger, done):
        assert list(stranger.fine_tuning.jobs.list()) == []
        assert [model.id for model in stranger.models.list()] == ["tiny"]


class TestAsked:
    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"model": "../etc"}, "model"),
            ({"model": str(ROOT / "examples" / "tiny_base")}, "model"),
            ({"model": "examples/tiny_base"}, "model"),
            ({"method": {"type": "dpo"}}, "method.type"),
            ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
            ({"suffix": "x" * 65}, "suffix"),
            ({"metadata": {"k": "v" * 513}}, "metadata"),
            ({"config": {"dataset": {"path": "/etc/passwd"}}}, "config.dataset.path"),
            ({"config": {"training": {"save_steps": 0}}}, "config.training.save_steps"),
        ],
    )
    def test_what_is_wrong_is_named(self, client, create, fields, param):
        before = len(list(client.fine_tuning.jobs.list()))
        with pytest.raises(openai.BadRequestError) as refused:
            create(**fields)
        assert refused.value.param == param
        assert len(list(client.fine_tuning.jobs.list())) == before

    def test_what_is_unknown_is_named(self, client, files):
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="tiny", **files, extra_body={"lora_rnak": 8})
        assert refused.value.param == "lora_rnak"

    def test_a_file_that_is_no_data_is_refused(self, client, create):
        file = client.files.create(file=("a.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
        client.files.wait_for_processing(file.id, poll_interval=0.1)
        with pytest.raises(openai.BadRequestError) as refused:
            create(training_file=file.id)
        assert refused.value.param == "training_file"
        other = client.files.create(file=("a.txt", b"x"), purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="purpose"):
            create(validation_file=other.id)

    @pytest.mark.parametrize("name", ["..%2f..", "%2e%2e", "~", "*", "a" * 3000, "%00", "ftjob-"])
    def test_no_path_leads_out(self, api, name):
        headers = {"Authorization": f"Bearer {api.key()}"}
        for path in (f"/v1/fine_tuning/jobs/{name}", f"/v1/models/{name}"):
            assert httpx.get(api.url + path, headers=headers).status_code == 404
        for what in ("jobs", "jobs/Orders/events", "jobs/Orders/checkpoints"):
            answer = httpx.get(
                f"{api.url}/v1/fine_tuning/{what}", params={"after": name}, headers=headers
            )
            assert answer.status_code in (400, 404)


class TestVerbs:
    """One worker with one slot: what waits, waits behind what runs."""

    def test_pause_frees_the_slot_and_resume_goes_on(self, client, create):
        long = create({**QUICK, "training": {"logging_steps": 1, "epochs": 10}}, suffix="long",
                      hyperparameters={"batch_size": 16})  # fmt: skip
        short = create(suffix="short")
        held = create(suffix="held")
        assert ask(client, held.id, "pause").status == "paused"
        assert ask(client, held.id, "pause").status == "paused"
        reached(client, long.id, "running")
        until(lambda: client.fine_tuning.jobs.retrieve(long.id).progress > 0.01, "no step", 120)
        job = client.fine_tuning.jobs.retrieve(long.id)
        assert time.time() - 1 < job.estimated_finish < time.time() + 3600
        assert client.fine_tuning.jobs.retrieve(short.id).status == "queued"
        checkpoints = client.fine_tuning.jobs.checkpoints
        before = len(list(checkpoints.list(long.id)))
        assert ask(client, long.id, "checkpoint").status == "running"
        until(lambda: len(list(checkpoints.list(long.id))) > before, "no checkpoint", 60)
        with pytest.raises(openai.ConflictError):
            ask(client, long.id, "resume")
        ask(client, long.id, "pause")
        ask(client, long.id, "pause")
        at = reached(client, long.id, "paused").progress
        assert 0 < at < 1
        with pytest.raises(openai.ConflictError):
            ask(client, long.id, "checkpoint")
        reached(client, short.id, "succeeded")
        assert client.fine_tuning.jobs.retrieve(long.id).progress == at
        assert client.fine_tuning.jobs.retrieve(held.id).status == "paused"
        assert client.fine_tuning.jobs.cancel(held.id).status == "cancelled"
        assert client.fine_tuning.jobs.cancel(held.id).status == "cancelled"
        assert ask(client, long.id, "resume").status == "queued"
        assert ask(client, long.id, "resume").status == "queued"
        reached(client, long.id, "running")
        until(lambda: client.fine_tuning.jobs.retrieve(long.id).progress > at, "no step", 120)
        steps = [
            event.data["step"]
            for event in client.fine_tuning.jobs.list_events(long.id, limit=100)
            if event.name == "step"
        ]
        assert steps == list(range(steps[0], 0, -1))  # each once: none lost, none done again
        begun = time.monotonic()
        client.delete(f"/fine_tuning/jobs/{long.id}", cast_to=FineTuningJob)
        cancelled = reached(client, long.id, "cancelled")
        assert time.monotonic() - begun < 30
        assert cancelled.finished_at
        assert cancelled.fine_tuned_model is None
        assert len(cancelled.result_files) == 1
        told = names(client, long.id)
        for name in ("pause_requested", "paused", "resume_requested", "resumed",
                     "checkpoint_requested", "cancel_requested", "cancelled"):  # fmt: skip
            assert name in told

    def test_a_job_that_waits_is_cancelled_at_once(self, client, create):
        job = create()
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        assert "cancelled" in names(client, job.id)

    def test_a_file_that_a_job_needs_stays(self, client, create):
        data = (ROOT / "examples/data/validation.jsonl").read_bytes()
        file = client.files.create(file=("own.jsonl", data), purpose="fine-tune")
        job = create(training_file=file.id)
        with pytest.raises(openai.ConflictError):
            client.files.delete(file.id)
        client.fine_tuning.jobs.cancel(job.id)
        assert client.files.delete(file.id).deleted


class TestLists:
    def test_pages_and_metadata(self, client, create):
        mark = f"run-{time.time_ns()}"
        made = [create(metadata={"mark": mark, "n": str(n)}).id for n in range(5)]
        for job_id in made:
            client.fine_tuning.jobs.cancel(job_id)
        listed = client.fine_tuning.jobs.list(limit=2, metadata={"mark": mark})
        assert [job.id for job in listed.data] == made[::-1][:2]
        assert listed.has_more
        assert [job.id for job in listed] == made[::-1]
        pair = {"mark": mark, "n": "3"}
        assert [job.id for job in client.fine_tuning.jobs.list(metadata=pair)] == [made[3]]
        assert list(client.fine_tuning.jobs.list(metadata={"mark": "none"})) == []

    def test_the_same_key_makes_the_same_job(self, client, create):
        key = {"Idempotency-Key": f"key-{time.time_ns()}"}
        first = create(extra_headers=key)
        assert create(extra_headers=key).id == first.id
        with pytest.raises(openai.BadRequestError) as refused:
            create(extra_headers=key, suffix="another")
        assert refused.value.param == "Idempotency-Key"
        client.fine_tuning.jobs.cancel(first.id)


def test_every_state_leads_somewhere_or_is_final():
    for status in Status:
        assert any(status in leads for leads in LEADS.values()) == (status.value not in FINAL)


def test_without_prefect_nothing_is_lost_or_doubled(tmp_path: Path):
    stack = Stack(tmp_path)
    data = (ROOT / "examples/data/validation.jsonl").read_bytes()
    with stack.prefect():
        stack.deploy()
    with stack.api() as server:
        client = server.client(max_retries=0)
        file = client.files.create(file=("a.jsonl", data), purpose="fine-tune").id
        wanted = {"model": "tiny", "training_file": file}
        key = {"Idempotency-Key": "once"}
        for _ in range(3):
            with pytest.raises(openai.InternalServerError) as refused:
                client.fine_tuning.jobs.create(**wanted, extra_headers=key)
            assert refused.value.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) > 0
        assert list(client.fine_tuning.jobs.list()) == []
        with stack.prefect():
            job = client.fine_tuning.jobs.create(**wanted, extra_headers=key)
            assert client.fine_tuning.jobs.create(**wanted, extra_headers=key).id == job.id

        def away():  # what Prefect said last holds for a second
            try:
                return client.fine_tuning.jobs.retrieve(job.id) and None
            except openai.InternalServerError as error:
                return error

        assert until(away, "Prefect is still heard").status_code == 503
        with pytest.raises(openai.InternalServerError):
            client.fine_tuning.jobs.cancel(job.id)
        server.kill()
    # As if the API had ended between writing the job down and submitting it.
    folder = stack.home / "organizations/acme/jobs" / job.id
    record = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**record, "flow_run_id": None, "created_at": 1}))

    def run_id():
        return json.loads((folder / "job.json").read_text())["flow_run_id"]

    with stack.api() as server:
        client = server.client(max_retries=0)
        assert client.fine_tuning.jobs.retrieve(job.id).status in ("validating_files", "queued")
        with stack.prefect():
            until(run_id, "the keeper does not submit it")
            runs = httpx.post(f"{stack.prefect_url}/flow_runs/filter", json={}).json()
            assert [run["id"] for run in runs] == [run_id()] == [record["flow_run_id"]]
            assert [each.id for each in client.fine_tuning.jobs.list()] == [job.id]
            # A run that ends without its flow's doing is closed by the keeper.
            httpx.post(
                f"{stack.prefect_url}/flow_runs/{run_id()}/set_state",
                json={"state": {"type": "FAILED", "message": "no more disk"}, "force": True},
            ).raise_for_status()
            until((folder / "outcome.json").exists, "the keeper does not close it")
            failed = client.fine_tuning.jobs.retrieve(job.id)
            assert (failed.status, failed.error.message) == ("failed", "no more disk")
        assert client.fine_tuning.jobs.retrieve(job.id) == failed  # without Prefect


@pytest.fixture(scope="module")
def unworked(tmp_path_factory):
    """A stack that no worker works for, on which an organisation may have one job at Prefect."""
    stack = Stack(tmp_path_factory.mktemp("unworked"))
    with stack.prefect():
        stack.deploy()
        with stack.api(FINETUNE_ORGANIZATION_JOBS="1") as server:
            yield stack, server


def queued(client) -> str:
    data = (ROOT / "examples/data/validation.jsonl").read_bytes()
    file = client.files.create(file=("a.jsonl", data), purpose="fine-tune").id
    return client.fine_tuning.jobs.create(model="tiny", training_file=file).id


def test_an_organisation_has_so_many_jobs_at_prefect_and_no_more(unworked):
    stack, server = unworked
    client, other = server.client(), server.client("other")
    made = [queued(each) for each in (client, client, other)]
    runs = f"{stack.prefect_url}/flow_runs/filter"

    def scheduled():
        found = httpx.post(runs, json={}).json()
        return {run["name"] for run in found if run["state_type"] == "SCHEDULED"}

    until(lambda: scheduled() == {made[0], made[2]}, "they do not wait at Prefect")
    assert reached(client, made[1], "queued").queue_position is None
    client.fine_tuning.jobs.cancel(made[0])
    until(lambda: scheduled() == {made[1], made[2]}, "it still waits")


def test_a_loss_that_the_worker_reports_twice_is_one_loss(unworked):
    stack, server = unworked
    client = server.client("third")
    job_id = queued(client)
    record = stack.home / "organizations/third/jobs" / job_id / "job.json"
    known = until(lambda: json.loads(record.read_text())["flow_run_id"], "it is not submitted")
    run = f"{stack.prefect_url}/flow_runs/{known}"

    def put(kind):
        state = {"type": kind, "name": kind.title(), "message": "exit code -9"}
        httpx.post(f"{run}/set_state", json={"state": state, "force": True}).raise_for_status()

    def restarting():
        state = httpx.get(run).json()["state"]
        return state["name"] == "Restarting" and state["state_details"]["scheduled_time"]

    def restarts():
        events = list(client.fine_tuning.jobs.list_events(job_id))
        return [each for each in events if "was lost" in each.message]

    for kind in ("PENDING", "RUNNING", "CRASHED"):
        put(kind)
    due = until(restarting, "it is not started again")
    put("CRASHED")
    assert until(restarting, "it is not put back") == due
    assert len(restarts()) == 1
    for kind in ("PENDING", "CRASHED"):  # this time a process has begun in between
        put(kind)
    assert until(restarting, "it is not started a second time") > due
    assert len(restarts()) == 2
    client.fine_tuning.jobs.cancel(job_id)


def test_the_model_can_be_deleted_and_the_job_stays(client, done):
    """The last test: others look at the model."""
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)
    with pytest.raises(openai.NotFoundError):
        client.models.delete(done.fine_tuned_model)
    assert client.fine_tuning.jobs.retrieve(done.id).status == "succeeded"
