"""Prefect and MLflow killed under a served API: what needs them answers 503, and soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import openai
import pytest

from finetune_service.jobs.record import JobRecord
from tests.conftest import ROOT
from tests.finetune_service.api.mlflow_server import workspaces_server
from tests.finetune_service.api.seeded import STEP, finished_job
from tests.finetune_service.api.server import Server
from tests.finetune_service.api.stack import Stack
from tests.finetune_service.api.test_app import error_of
from tests.integration.conftest import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOON = 10.0  # seconds on a busy machine; the client waits for minutes


class Servers:
    """Both servers, of which each can be ended and started again over what it knew."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder, self.port = stack.folder / "mlflow", free_port()
        self.running = ExitStack()

    def start(self) -> dict[str, str]:
        self.running.enter_context(self.stack.prefect())
        return self.running.enter_context(workspaces_server(self.folder, self.port))


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    return Stack(tmp_path_factory.mktemp("away"))


@pytest.fixture(scope="module")
def servers(stack) -> Iterator[Servers]:
    found = Servers(stack)
    yield found
    found.running.close()


@pytest.fixture(scope="module")
def api(stack, servers) -> Iterator[Server]:
    environment = servers.start()
    stack.deploy()
    with stack.api(**environment) as server:
        yield server


@pytest.fixture(scope="module")
def client(api) -> openai.OpenAI:
    return api.client(max_retries=0)


@pytest.fixture(scope="module")
def http(api, client) -> httpx.Client:
    headers = {"Authorization": f"Bearer {client.api_key}"}
    return httpx.Client(base_url=f"{api.url}/v1", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def file(client) -> str:
    data = ROOT / "examples" / "data" / "validation.jsonl"
    return client.files.create(file=data, purpose="fine-tune").id


@pytest.fixture(scope="module")
def waiting(client, file) -> str:
    return client.fine_tuning.jobs.create(model="tiny", training_file=file).id


@pytest.fixture(scope="module")
def ended(stack, api) -> JobRecord:
    return finished_job(stack.home, "acme", registered=True)


@pytest.fixture(scope="module")
def away(servers, http, file, waiting, ended) -> None:
    """All has been used once, then both servers are ended."""
    assert http.get("/hub/models").is_success
    assert http.get(f"/fine_tuning/jobs/{waiting}").json()["id"] == waiting
    servers.running.close()
    job = f"/fine_tuning/jobs/{waiting}"
    until(lambda: http.get(job).status_code == 503, "what Prefect said last still holds")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/fine_tuning/jobs"),
        ("GET", "/fine_tuning/jobs/{waiting}"),
        ("POST", "/fine_tuning/jobs"),
        ("POST", "/fine_tuning/jobs/{waiting}/cancel"),
        ("POST", "/fine_tuning/jobs/{waiting}/pause"),
        ("POST", "/fine_tuning/jobs/{waiting}/resume"),
        ("POST", "/fine_tuning/jobs/{waiting}/checkpoint"),
        ("DELETE", "/fine_tuning/jobs/{waiting}"),
        ("GET", "/hub/models"),
        ("GET", "/hub/adapters"),
        ("GET", "/hub/models/a"),
        ("DELETE", "/hub/adapters/a"),
        ("DELETE", "/models/{model}"),
        ("GET", "/../mlflow/version"),
    ],
)
def test_what_needs_them_answers_503(away, http, file, waiting, ended, method, path):
    begun = time.monotonic()
    url = path.format(waiting=waiting, model=ended.fine_tuned_model)
    body = {"model": "tiny", "training_file": file} if path.endswith("/jobs") else None
    answer = http.request(method, url, json=body)
    assert answer.status_code == 503, answer.text
    assert time.monotonic() - begun < SOON
    assert 0 < int(answer.headers["retry-after"]) <= 120
    error_of(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/health", "/files", "/files/{file}", "/files/{file}/content", "/models",
        "/models/{model}", "/models/{model}/files", "/models/{model}/content",
        "/fine_tuning/jobs/{job}", "/fine_tuning/jobs/{job}/events",
        "/fine_tuning/jobs/{waiting}/events", "/fine_tuning/jobs/{job}/checkpoints",
        "/fine_tuning/checkpoints/{model}:ckpt-step-{step}/permissions",
    ],
)  # fmt: skip
def test_what_does_not_need_them_goes_on(away, http, file, waiting, ended, path):
    model = ended.fine_tuned_model
    url = path.format(file=file, waiting=waiting, job=ended.id, model=model, step=STEP)
    assert http.get(url).status_code == 200


def test_the_health_says_so(away, http):
    def degraded():
        found = http.get("/health").json()
        return (found["status"], found["prefect"], found["mlflow"]) == (
            "degraded", "unreachable", "unreachable",
        )  # fmt: skip

    until(degraded, "both are still healthy")


def test_when_they_are_back_nothing_is_lost_and_nothing_is_doubled(
    away, stack, servers, http, waiting, ended
):
    servers.start()
    until(lambda: http.get("/fine_tuning/jobs").is_success, "Prefect is not heard again")
    listed = [job["id"] for job in http.get("/fine_tuning/jobs").json()["data"]]
    assert sorted(listed) == sorted([waiting, ended.id])
    runs = httpx.post(f"{stack.prefect_url}/flow_runs/filter", json={}).json()
    assert [run["name"] for run in runs] == [waiting]
    assert http.get(f"/fine_tuning/jobs/{waiting}").json()["status"] != "cancelled"
    assert http.post(f"/fine_tuning/jobs/{waiting}/cancel").json()["status"] == "cancelled"
    until(lambda: http.get("/hub/models").is_success, "MLflow is not heard again")
    assert http.delete(f"/models/{ended.fine_tuned_model}").is_success
