"""What holds for every request: a key, an id, the one shape of errors, limits."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import openai
import pytest

from tests.finetune_service.api.server import served


def error_of(answer: httpx.Response) -> dict:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    return body["error"]


@pytest.fixture(scope="module")
def http(api) -> httpx.Client:
    return httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {api.key()}"})


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_health_needs_no_key_and_no_server(api, prefix):
    begun = time.monotonic()
    answer = httpx.get(f"{api.url}{prefix}/health")
    assert time.monotonic() - begun < 1
    assert answer.json() == {
        "status": "degraded",
        "version": "0.1.0",
        "prefect": "unreachable",
        "mlflow": "not configured",
    }
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer sk-ft-nix", "Basic YTpi", "sk-ft-nix"]
)
@pytest.mark.parametrize("path", ["/v1/files", "/files", "/v1/nowhere", "/"])
def test_without_a_key_there_is_nothing_to_see(api, authorization, path):
    headers = {"Authorization": authorization} if authorization is not None else {}
    answer = httpx.get(api.url + path, headers=headers)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_clients_own_error_classes(api, client):
    with pytest.raises(openai.AuthenticationError):
        api.client(api_key="sk-ft-wrong").files.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve("file-nowhere")
    assert missing.value.code == "not_found"
    assert missing.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as invalid:
        client.files.list(limit=0)
    assert (invalid.value.param, invalid.value.code) == ("limit", "invalid_value")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere", 404),
        ("GET", "/v1/files/", 404),
        ("PUT", "/v1/files", 405),
        ("GET", "/v1/uploads", 405),
        ("POST", "/health", 405),
        ("GET", "/v1/files?limit=many", 400),
        ("GET", "/v1/files?order=up", 400),
        ("GET", "/v1/files?purpose=nix", 400),
        ("GET", "/v1/files?after=../x", 400),
        ("POST", "/v1/files", 400),
        ("POST", "/v1/uploads", 400),
    ],
)
def test_each_error_has_the_one_shape(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    error_of(answer)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"bytes": NaN}', b"\xff\xfe", b'{"filename": "\\ud800"}',
             b"[" * 100_000, b'{"bytes": ' + b"9" * 10_000 + b"}"],
    ids=lambda body: ascii(body[:20]),
)  # fmt: skip
def test_a_broken_body_is_the_callers_fault(http, body):
    answer = http.post("/v1/uploads", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/files", "GET, POST"), ("/files/x", "DELETE, GET"), ("/files/x/content", "GET")],
)
def test_what_is_allowed_is_said(http, prefix, path, allowed):
    assert http.put(prefix + path).headers["allow"] == allowed


def test_the_same_routes_with_and_without_v1(api, http):
    assert http.get("/files").json() == http.get("/v1/files").json()
    schema = httpx.get(f"{api.url}/openapi.json").json()
    assert {path.partition("/")[2].partition("/")[0] for path in schema["paths"]} == {"v1"}
    assert "422" not in json.dumps(schema)
    assert httpx.get(f"{api.url}/docs").is_success


def test_a_revoked_key_is_refused_at_once(api):
    made = api.organizations.create_key("acme")
    client = api.client(api_key=made.secret)
    client.files.list()
    api.organizations.revoke_key(made.key.id)
    with pytest.raises(openai.AuthenticationError):
        client.files.list()


def test_no_key_is_written_into_the_log(api):
    key = api.key()
    httpx.get(
        f"{api.url}/v1/files", params={"key": key}, headers={"Authorization": f"Bearer {key}"}
    )
    httpx.get(f"{api.url}/v1/{key}", headers={"Authorization": f"Bearer {key}x"})
    log = api.log.read_text()
    assert "GET /v1/sk-ft-" in log
    assert key[-43:] not in log


def test_a_rate_is_kept_a_key_and_the_client_waits(tmp_path):
    with served(tmp_path, FINETUNE_RATE_LIMIT="5/2seconds") as api:
        hasty, other = api.client(max_retries=0), api.client()
        begun = time.monotonic()
        for _ in range(5):
            hasty.files.list()
        with pytest.raises(openai.RateLimitError) as refused:
            hasty.files.list()
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 4
        assert refused.value.code == "rate_limit_exceeded"
        other.files.list()
        for _ in range(8):
            hasty.with_options(max_retries=3).files.list()
        assert time.monotonic() - begun > 1


def test_two_processes_over_one_home_know_the_same(tmp_path):
    with served(tmp_path) as first, served(tmp_path) as second:
        made = first.organizations
        made.create("acme")
        key = made.create_key("acme")
        clients = [server.client(api_key=key.secret) for server in (first, second)]
        file = clients[0].files.create(file=("a.txt", b"x"), purpose="user_data")
        assert clients[1].files.retrieve(file.id) == file
        clients[1].files.delete(file.id)
        with pytest.raises(openai.NotFoundError):
            clients[0].files.retrieve(file.id)
        made.revoke_key(key.key.id)
        for client in clients:
            with pytest.raises(openai.AuthenticationError):
                client.files.list()


def test_what_the_api_imports_is_light():
    code = (
        "import sys, finetune_service.api.app as app; app.create_app();"
        "print(*{'torch', 'transformers', 'mlflow', 'prefect', 'pandas'} & set(sys.modules))"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
    assert time.monotonic() - begun < 5  # about one on an idle machine
