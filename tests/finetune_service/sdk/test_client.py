"""The client against the real API, as it is served; Prefect and MLflow are away."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from finetune_core.exceptions import DatasetNotFoundError
from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from finetune_service.sdk import ApiError, ApiKeyError, Client, FineTuningJob
from finetune_service.sdk.api import ApiBackend
from tests.finetune_service.api.server import served
from tests.finetune_service.sdk.small import asked


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    home = tmp_path_factory.mktemp("client") / "home"
    base_models = home.with_name("base_models.yaml")
    base_models.write_text("tiny: examples/tiny_base\n")
    with served(
        home,
        FINETUNE_MAX_FILE_BYTES="100000",
        FINETUNE_RATE_LIMIT="30/second",
        FINETUNE_BASE_MODELS=str(base_models),
        PREFECT_API_URL="http://127.0.0.1:9/api",
    ) as server:
        yield server


@pytest.fixture
def naps():
    """What the client would have slept."""
    return []


@pytest.fixture
def client(api, naps):
    with Client(api.url, api.key(), sleep=naps.append) as client:
        yield client


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    return file


def test_files_come_and_go(client, rows):
    made = client.files.upload(rows)
    assert (made.filename, made.bytes, made.purpose) == (rows.name, 105, "fine-tune")
    assert client.files.get(made.id).id == made.id
    more = client.files.upload(str(rows))
    assert [each.id for each in client.files.list(limit=1)] == [more.id]
    assert {each.id for each in client.files.list()} >= {made.id, more.id}
    client.files.delete(made.id)
    with pytest.raises(NotFoundError, match=made.id):
        client.files.get(made.id)


def test_lists_are_read_page_by_page(client, rows, monkeypatch):
    monkeypatch.setattr("finetune_service.sdk.transport.PAGE", 2)
    made = [client.files.upload(rows).id for _ in range(5)]
    assert [each.id for each in client.files.list(limit=5)] == made[::-1]
    assert [each.id for each in client.files.list(limit=3)] == made[:1:-1]


def test_health_and_models(client):
    assert client.health()["prefect"] == "unreachable"
    assert "tiny" in {each.id for each in client.models.list()}
    assert client.models.get("tiny").id == "tiny"
    assert [*client.jobs.list()] == []


def test_the_url_may_end_as_people_write_it(api, rows):
    key = api.key()
    for url in (api.url, f"{api.url}/", f"{api.url}/v1", f"{api.url}/v1/"):
        with Client(url, key) as client:
            assert client.health()["version"]


def test_every_error_is_one_of_ours(client, naps, rows, tmp_path):
    with pytest.raises(InvalidValueError, match="limit") as refused:
        client.transport.request("GET", "/files", params={"limit": 0})
    assert refused.value.param == "limit"
    with pytest.raises(NotFoundError, match="nothing"):
        client.jobs.get("nothing")
    with pytest.raises(NotFoundError):
        client.jobs.get("../../health")
    large = tmp_path / "large.jsonl"
    large.write_text(rows.read_text() * 1000)
    with pytest.raises(TooLargeError, match="100,000"):
        client.files.upload(large)
    with pytest.raises(DatasetNotFoundError):
        client.files.upload(tmp_path / "none.jsonl")
    assert naps == []  # none of these is worth a second try


def test_prefect_away_is_waited_for_as_the_api_says_and_no_job_is_left(client, naps, rows):
    job = FineTuningJob(
        **asked(model="tiny", dataset=rows, validation=rows), backend=ApiBackend(client)
    )
    with pytest.raises(UnavailableError, match="Prefect"):
        job.start()
    assert naps == [5, 5, 5, 5]
    assert [*client.jobs.list()] == []


def test_a_job_that_is_asked_for_wrongly(client, rows):
    backend = ApiBackend(client)
    for wrong in ({"hyperparameters": {"epochs": 0}}, {"hyperparameters": {"ranks": 1}}):
        job = FineTuningJob(**asked(model="tiny", dataset=rows, **wrong), backend=backend)
        with pytest.raises(InvalidValueError, match="hyperparameters"):
            job.start()


def test_a_busy_client_is_slowed_down_and_not_refused(api):
    with Client(api.url, api.key()) as client:
        assert [len([*client.files.list(limit=1)]) for _ in range(40)]


def test_a_key_that_is_missing_wrong_or_no_header(api):
    with pytest.raises(ApiKeyError, match="no API key"):
        Client(api.url)
    with Client(api.url, "sk-ft-wrong") as stranger, pytest.raises(ApiKeyError, match="Incorrect"):
        stranger.jobs.get("x")
    with pytest.raises(ApiError) as refused:
        Client(api.url, "sk-ft-ö")
    assert "sk-ft-ö" not in str(refused.value)
    key = api.key()
    client = Client(api.url, key)
    assert key not in repr(vars(client)) + repr(vars(client.transport))
    client.close()


def test_what_is_not_there(naps):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    away = Client(f"http://127.0.0.1:{free}", "sk-ft-x", sleep=naps.append)
    with pytest.raises(UnavailableError, match=r"does not answer.*refused") as refused:
        away.health()
    assert "FINETUNE_API_URL" in refused.value.hint
    assert naps == [0.25, 0.5, 1, 2]
    for url in ("nonsense", "ftp://127.0.0.1", "http://[::1"):
        with pytest.raises((ApiError, UnavailableError), match=r"does not answer|cannot be asked"):
            Client(url, "sk-ft-x").models.list()
    with pytest.raises(ApiError, match="nobody says where"):
        Client(key="sk-ft-x")


class Another(BaseHTTPRequestHandler):
    """A server that is not the API, or one in trouble."""

    ANSWERS: ClassVar = {
        "/v1/page": (200, {}, b"<html>"),
        "/v1/proxy": (502, {}, b"bad gateway"),
        "/v1/long": (503, {"Retry-After": "600"}, b"{}"),
        "/v1/state": (409, {}, b'{"error": {"message": "no"}}'),
    }

    def do_GET(self):
        status, headers, body = self.ANSWERS[self.path]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("path", "error"),
    [("/page", ApiError), ("/proxy", ApiError), ("/long", ApiError), ("/state", ConflictError)],
)
def test_what_another_server_answers_is_not_tried_again(naps, path, error):
    with HTTPServer(("127.0.0.1", 0), Another) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Client(url, "sk-ft-x", sleep=naps.append) as client, pytest.raises(error):
            client.transport.request("GET", path)
    assert naps == []
