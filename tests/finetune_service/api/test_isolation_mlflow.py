"""The probes of a foreign organisation against another one's things in MLflow: all in vain."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlencode, urlsplit

import httpx
import pytest

from finetune_core.config import Settings
from finetune_core.hub.service_user import read_service_user

SECRET = "acme-s-secret-4711"
OWN = "nothing"  # what the organisation that asks has in its own things
V2, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts"

# Each: method, path, and what is sent: a dictionary as JSON, text as it is. {…} are acme's ids,
# {own_…} those of the organisation that asks.
THINGS = [
    ("GET", f"{V2}/experiments/get?experiment_id={{experiment}}", None),
    ("GET", f"{V2}/experiments/get-by-name?experiment_name={{experiment_name}}", None),
    ("POST", f"{V2}/experiments/update", {"experiment_id": "{experiment}", "new_name": "mine"}),
    ("POST", f"{V2}/experiments/delete", {"experiment_id": "{experiment}"}),
    ("POST", f"{V2}/experiments/restore", {"experiment_id": "{experiment}"}),
    (
        "POST",
        f"{V2}/experiments/set-experiment-tag",
        {"experiment_id": "{experiment}", "key": "a", "value": "b"},
    ),
    (
        "POST",
        f"{V2}/experiments/delete-experiment-tag",
        {"experiment_id": "{experiment}", "key": "a"},
    ),
    ("GET", f"{V2}/runs/get?run_id={{run}}", None),
    ("GET", f"{V2}/runs/get?run_uuid={{run}}", None),
    ("POST", f"{V2}/runs/create", {"experiment_id": "{experiment}"}),
    ("POST", f"{V2}/runs/update", {"run_id": "{run}", "run_name": "mine"}),
    ("POST", f"{V2}/runs/delete", {"run_id": "{run}"}),
    ("POST", f"{V2}/runs/restore", {"run_id": "{run}"}),
    ("POST", f"{V2}/runs/set-tag", {"run_id": "{run}", "key": "a", "value": "b"}),
    ("POST", f"{V2}/runs/delete-tag", {"run_id": "{run}", "key": "note"}),
    ("POST", f"{V2}/runs/log-parameter", {"run_id": "{run}", "key": "a", "value": "b"}),
    (
        "POST",
        f"{V2}/runs/log-metric",
        {"run_id": "{run}", "key": "a", "value": 1, "timestamp": 1, "step": 0},
    ),
    ("POST", f"{V2}/runs/log-batch", {"run_id": "{run}", "tags": [{"key": "a", "value": "b"}]}),
    ("POST", f"{V2}/runs/log-inputs", {"run_id": "{run}", "datasets": []}),
    ("POST", f"{V2}/runs/outputs", {"run_id": "{run}", "models": []}),
    ("POST", f"{V2}/runs/log-model", {"run_id": "{run}", "model_json": "{{}}"}),
    ("GET", f"{V2}/metrics/get-history?run_id={{run}}&metric_key=train_loss", None),
    (
        "GET",
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={run}&metric_key=train_loss",
        None,
    ),
    (
        "GET",
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
        "?run_ids={run}&metric_key=train_loss&max_results=10",
        None,
    ),
    (
        "GET",
        f"{V2}/metrics/get-history-bulk-interval?run_ids={{run}}&metric_key=train_loss&max_results=9",
        None,
    ),
    ("GET", f"{V2}/artifacts/list?run_id={{run}}", None),
    ("POST", f"{V2}/artifacts/presigned-download-url", {"run_id": "{run}", "path": "notes.txt"}),
    ("POST", f"{V2}/artifacts/presigned-upload-url", {"run_id": "{run}", "path": "notes.txt"}),
    ("GET", "/get-artifact?run_id={run}&path=notes.txt", None),
    ("GET", "/get-artifact?run_uuid={run}&path=notes.txt", None),
    ("GET", "/get-artifact?run_id={own_run}&run_uuid={run}&path=notes.txt", None),
    ("GET", "/get-artifact?run_id={own_run}&run_id={run}&path=notes.txt", None),
    ("GET", "/get-artifact?run_id={own_run}&path=../../{run}/artifacts/notes.txt", None),
    ("GET", "/get-artifact?run_id={own_run}&path=%2e%2e/%2e%2e/{run}/artifacts/notes.txt", None),
    ("GET", "/get-artifact?run_id={own_run}&path={file}", None),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=notes.txt", "mine"),
    ("POST", f"{V2}/logged-models", {"experiment_id": "{experiment}", "name": "mine"}),
    ("GET", f"{V2}/logged-models/{{logged}}", None),
    ("PATCH", f"{V2}/logged-models/{{logged}}", {"model_id": "{logged}", "status": 3}),
    ("DELETE", f"{V2}/logged-models/{{logged}}", None),
    ("PATCH", f"{V2}/logged-models/{{logged}}/tags", {"tags": [{"key": "a", "value": "b"}]}),
    ("DELETE", f"{V2}/logged-models/{{logged}}/tags/a", None),
    ("POST", f"{V2}/logged-models/{{logged}}/params", {"params": [{"key": "a", "value": "b"}]}),
    ("GET", f"{V2}/logged-models/{{logged}}/artifacts/directories", None),
    (
        "GET",
        "/ajax-api/2.0/mlflow/logged-models/{logged}/artifacts/files?artifact_file_path=notes.txt",
        None,
    ),
    ("GET", f"{V2}/registered-models/get?name={{model}}", None),
    ("GET", f"{V2}/registered-models/alias?name={{model}}&alias=best", None),
    ("POST", f"{V2}/registered-models/alias", {"name": "{model}", "alias": "b", "version": "1"}),
    ("DELETE", f"{V2}/registered-models/alias", {"name": "{model}", "alias": "best"}),
    ("POST", f"{V2}/registered-models/rename", {"name": "{model}", "new_name": "mine"}),
    ("PATCH", f"{V2}/registered-models/update", {"name": "{model}", "description": "mine"}),
    ("DELETE", f"{V2}/registered-models/delete", {"name": "{model}"}),
    (
        "POST",
        f"{V2}/registered-models/set-tag",
        {"name": "{model}", "key": "a", "value": "b"},
    ),
    ("DELETE", f"{V2}/registered-models/delete-tag", {"name": "{model}", "key": "a"}),
    ("POST", f"{V2}/registered-models/get-latest-versions", {"name": "{model}"}),
    ("GET", f"{V2}/registered-models/get-latest-versions?name={{model}}", None),
    ("GET", f"{V2}/model-versions/get?name={{model}}&version=1", None),
    ("GET", f"{V2}/model-versions/get-download-uri?name={{model}}&version=1", None),
    ("GET", "/model-versions/get-artifact?name={model}&version=1&path=notes.txt", None),
    (
        "PATCH",
        f"{V2}/model-versions/update",
        {"name": "{model}", "version": "1", "description": "mine"},
    ),
    ("DELETE", f"{V2}/model-versions/delete", {"name": "{model}", "version": "1"}),
    (
        "POST",
        f"{V2}/model-versions/set-tag",
        {"name": "{model}", "version": "1", "key": "a", "value": "b"},
    ),
    (
        "DELETE",
        f"{V2}/model-versions/delete-tag",
        {"name": "{model}", "version": "1", "key": "a"},
    ),
    (
        "POST",
        f"{V2}/model-versions/transition-stage",
        {"name": "{model}", "version": "1", "stage": "Archived", "archive_existing_versions": 0},
    ),
    ("POST", f"{V2}/model-versions/create", {"name": "{model}", "source": "{own_artifacts}"}),
    ("GET", f"{V3}/traces/{{trace}}", None),
    ("GET", f"{V2}/traces/{{trace}}/info", None),
    ("GET", f"{V3}/traces/get?trace_id={{trace}}", None),
    ("GET", f"{V3}/traces/batchGet?trace_ids={{trace}}", None),
    ("POST", f"{V3}/traces/batchGetInfos", {"trace_ids": ["{trace}"]}),
    ("GET", "/ajax-api/2.0/mlflow/get-trace-artifact?request_id={trace}", None),
    ("GET", "/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}", None),
    ("PATCH", f"{V3}/traces/{{trace}}/tags", {"key": "a", "value": "b"}),
    ("PATCH", f"{V2}/traces/{{trace}}/tags", {"key": "a", "value": "b"}),
    ("DELETE", f"{V3}/traces/{{trace}}/tags?key=a", None),
    ("POST", f"{V3}/traces/{{trace}}/assessments", {"assessment": {"assessment_name": "mine"}}),
    (
        "POST",
        f"{V2}/traces/delete-traces",
        {"experiment_id": "{experiment}", "request_ids": ["{trace}"]},
    ),
    (
        "POST",
        f"{V3}/traces/delete-traces",
        {"experiment_id": "{experiment}", "request_ids": ["{trace}"]},
    ),
    (
        "POST",
        f"{V2}/traces/link-to-run",
        {"trace_ids": ["{trace}"], "run_id": "{own_run}"},
    ),
    ("GET", f"{V3}/datasets/{{dataset}}", None),
    ("GET", f"{V3}/datasets/{{dataset}}/records", None),
    ("GET", f"{V3}/datasets/{{dataset}}/experiment-ids", None),
    ("DELETE", f"{V3}/datasets/{{dataset}}", None),
    ("POST", f"{V3}/datasets/{{dataset}}/records", {"records": "[]"}),
    ("DELETE", f"{V3}/datasets/{{dataset}}/records", {"dataset_record_ids": ["a"]}),
    ("PATCH", f"{V3}/datasets/{{dataset}}/tags", {"tags": '{{"a": "b"}}'}),
    (
        "POST",
        f"{V3}/datasets/{{dataset}}/add-experiments",
        {"experiment_ids": ["{own_experiment}"]},
    ),
    (
        "POST",
        f"{V3}/datasets/{{own_dataset}}/add-experiments",
        {"experiment_ids": ["{experiment}"]},
    ),
    ("POST", f"{V3}/datasets/create", {"name": "d", "experiment_ids": ["{experiment}"]}),
]
# What is no question about our own things. Spans are artifacts, which traces/get does not read.
UNFIT = ("own_", "{file}", "traces/get?", "traces/batchGet?")
SEARCHES = [
    ("GET", f"{V2}/experiments/search?max_results=100", None),
    ("POST", f"{V2}/experiments/search", {"max_results": 100, "view_type": "ALL"}),
    ("POST", f"{V2}/runs/search", {"experiment_ids": ["{experiment}"]}),
    ("POST", f"{V2}/runs/search", {"experiment_ids": ["{experiment}", "{own_experiment}"]}),
    (
        "POST",
        "/ajax-api/2.0/mlflow/experiments/search-datasets",
        {"experiment_ids": ["{experiment}"]},
    ),
    ("GET", f"{V2}/registered-models/search", None),
    ("GET", f"{V2}/registered-models/search?filter=name%3D%27{{model}}%27", None),
    ("GET", f"{V2}/model-versions/search", None),
    ("GET", f"{V2}/model-versions/search?filter=run_id%3D%27{{run}}%27", None),
    ("GET", f"{V2}/model-versions/search?filter=name%3D%27{{model}}%27", None),
    ("POST", f"{V2}/logged-models/search", {"experiment_ids": ["{experiment}"]}),
    ("GET", f"{V2}/traces?experiment_ids={{experiment}}", None),
    (
        "POST",
        f"{V3}/traces/search",
        {"locations": [{"type": 1, "mlflow_experiment": {"experiment_id": "{experiment}"}}]},
    ),
    ("POST", f"{V3}/traces/metrics", {"experiment_ids": ["{experiment}"]}),
    ("POST", f"{V3}/datasets/search", {"experiment_ids": ["{experiment}"]}),
    ("GET", f"{V3}/datasets/search?experiment_ids={{experiment}}", None),
    ("GET", f"{V3}/scorers/list?experiment_id={{experiment}}", None),
    ("GET", f"{V3}/label-schemas/list?experiment_id={{experiment}}", None),
    (
        "POST",
        "/graphql",
        {
            "query": '{{ mlflowGetRun(input: {{runId: "{run}"}})'
            " {{ run {{ info {{ runName }} }} }} }}"
        },
    ),
    (
        "POST",
        "/graphql",
        {
            "query": '{{ mlflowGetExperiment(input: {{experimentId: "{experiment}"}})'
            " {{ experiment {{ name }} }} }}"
        },
    ),
    (
        "POST",
        "/graphql",
        {
            "query": "{{ mlflowSearchModelVersions(input: {{filter: \"name = '{model}'\"}})"
            " {{ modelVersions {{ name }} }} }}"
        },
    ),
    (
        "POST",
        "/graphql",
        {"query": '{{ mlflowListArtifacts(input: {{runId: "{run}"}}) {{ files {{ path }} }} }}'},
    ),
    (
        "POST",
        "/graphql",
        {
            "query": "{{ mlflowGetMetricHistoryBulkInterval(input: "
            '{{runIds: ["{run}"], metricKey: "train_loss"}}) {{ metrics {{ value }} }} }}'
        },
    ),
]
FILES = [
    (method, f"{root}/{path}", body)
    for root in (f"{ARTIFACTS}/artifacts", "/ajax-api/2.0/mlflow-artifacts/artifacts")
    for path in (
        "{file}",
        "{own_folder}/../../../{file}",
        "{own_folder}/..%2f..%2f..%2f..%2f..%2f{file}",
        "{own_folder}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/{file}",
        "{own_folder}/%252e%252e/%252e%252e/%252e%252e/%252e%252e/%252e%252e/{file}",
        "workspaces%2facme%2f{experiment}%2f{run}%2fartifacts%2fnotes.txt",
        "./{file}",
        "/{file}",
        "{experiment}/{run}/artifacts/notes.txt",
        "workspaces/other/../acme/{experiment}/{run}/artifacts/notes.txt",
        "..%5c..%5cworkspaces/acme/{experiment}/{run}/artifacts/notes.txt",
    )
    for method, body in (("GET", None), ("PUT", "mine"), ("DELETE", None))
] + [
    ("GET", f"{ARTIFACTS}/artifacts?path=workspaces/acme/{{experiment}}/{{run}}/artifacts", None),
    ("GET", f"{ARTIFACTS}/artifacts?path=workspaces/acme", None),
    ("GET", f"{ARTIFACTS}/artifacts?path={{own_folder}}/../../..", None),
    ("GET", f"{ARTIFACTS}/presigned/{{file}}", None),
    ("POST", f"{ARTIFACTS}/mpu/create/{{folder}}", {"path": "notes.txt", "num_parts": 1}),
    ("POST", f"{ARTIFACTS}/mpu/complete/{{folder}}", {"path": "notes.txt", "upload_id": "a"}),
    ("POST", f"{ARTIFACTS}/mpu/abort/{{folder}}", {"path": "notes.txt", "upload_id": "a"}),
]
# What nobody may ask through the gateway, whoever he is.
ADMIN = [
    ("GET", f"{V2}/users/list", None),
    ("GET", f"{V2}/users/get?username=org-acme", None),
    ("GET", "/ajax-api/2.0/mlflow/users/current", None),
    ("POST", f"{V2}/users/create", {"username": "mine", "password": "a-long-password"}),
    ("POST", f"{V2}/users/create-ui", {"username": "mine", "password": "a-long-password"}),
    (
        "PATCH",
        f"{V2}/users/update-password",
        {"username": "org-acme", "password": "a-long-password"},
    ),
    (
        "PATCH",
        f"{V2}/users/update-password",
        {"username": "org-other", "password": "a-long-password"},
    ),
    ("PATCH", f"{V2}/users/update-admin", {"username": "org-other", "is_admin": True}),
    ("DELETE", f"{V2}/users/delete", {"username": "org-acme"}),
    (
        "POST",
        f"{V3}/users/permissions/grant",
        {
            "username": "org-other",
            "resource_type": "experiment",
            "resource_id": "{experiment}",
            "permission": "READ",
        },
    ),
    ("GET", f"{V3}/users/permissions/list?username=org-acme", None),
    ("GET", f"{V2}/experiments/permissions/get?experiment_id={{experiment}}", None),
    ("POST", f"{V2}/experiments/permissions/create", {"experiment_id": "{experiment}"}),
    ("GET", f"{V3}/roles/list?workspace=acme", None),
    ("POST", f"{V3}/roles/create", {"name": "mine", "workspace": "acme"}),
    ("POST", f"{V3}/roles/assign", {"username": "org-other", "role_id": 1}),
    ("GET", f"{V3}/workspaces", None),
    ("GET", f"{V3}/workspaces/acme", None),
    ("POST", f"{V3}/workspaces", {"name": "mine"}),
    ("DELETE", f"{V3}/workspaces/acme", None),
    ("GET", f"{V2}/webhooks", None),
    ("POST", f"{V2}/webhooks", {"name": "w", "url": "http://127.0.0.1:9/", "events": []}),
    ("GET", "/ajax-api/3.0/mlflow/jobs/1", None),
    ("PATCH", "/ajax-api/3.0/mlflow/jobs/cancel/1", None),
    ("GET", "/ajax-api/2.0/mlflow/gateway-proxy?gateway_path=api/2.0/endpoints/", None),
    ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run", {"experiment_id": "0"}),
    ("GET", f"{V3}/gateway/secrets/list", None),
    ("POST", f"{V3}/scorer/invoke", {"experiment_id": "{experiment}"}),
    ("POST", f"{V3}/demo/generate", {}),
    ("GET", "/ajax-api/3.0/mlflow/assistant/config", None),
    ("POST", "/v1/traces", {}),
    ("GET", "/signup", None),
    ("GET", "/health/../api/2.0/mlflow/users/list", None),
    ("GET", "/static-files/../api/2.0/mlflow/users/list", None),
    ("GET", "/static-files/%2e%2e/api/2.0/mlflow/users/list", None),
    ("GET", "/static-files/..%2fapi/2.0/mlflow/users/list", None),
    ("GET", "//api/2.0/mlflow/users/list", None),
    ("GET", "/api/2.0/mlflow/runs/..;/users/list", None),
    ("GET", "/api/2.0/mlflow/runs%2f..%2fusers%2flist", None),
    ("GET", "/api/2.0/mlflow/%75sers/list", None),
    ("GET", "/api/2.0/mlflow/Users/list", None),
    ("GET", "/graphql?query=%7B__typename%7D", None),
]
FORGED = [
    {"X-MLFLOW-WORKSPACE": "acme"},
    {"x-mlflow-workspace": "acme", "X_MLFLOW_WORKSPACE": "acme"},
    {"X-Forwarded-User": "org-acme", "X-Remote-User": "admin", "Remote-User": "admin"},
    {"X-Original-URL": f"{V2}/users/list", "X-Rewrite-URL": f"{V2}/users/list"},
    {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE"},
    {"Proxy-Authorization": "Basic YWRtaW46YWRtaW4=", "Cookie": "session=a; workspace=acme"},
    {"Connection": "x-mlflow-workspace", "Forwarded": "for=127.0.0.1;host=localhost"},
    {"X-MLFLOW-EXPERIMENT-ID": "{experiment}"},
]
SOURCES = [
    "file:///etc",
    "file://localhost/etc",
    "/etc",
    "../../../../etc",
    "{artifacts}",
    "mlflow-artifacts:/workspaces/other/../acme/{experiment}/{run}/artifacts",
    "mlflow-artifacts:/{experiment}/{run}/artifacts",
    "mlflow-artifacts://localhost/workspaces/acme/{experiment}/{run}/artifacts",
    "runs:/{run}/",
    "runs:/{run}/notes.txt",
    "models:/{model}/1",
    "models:/{model}@best",
    "models:/{logged}",
    "{logged_artifacts}",
    "http://127.0.0.1:9/",
    "dbfs:/etc",
    "s3://bucket/key",
    "file:///etc%2f..%2fetc",
]


@pytest.fixture(scope="module")
def keys(tracked):
    return {name: tracked.key(name) for name in ("acme", "other")}


@pytest.fixture(scope="module")
def acme(tracked, keys):
    """The ids of all that acme has, made by the stock client with acme's key."""
    return stock_client(tracked, keys["acme"], SECRET)


@pytest.fixture(scope="module")
def ids(tracked, keys, acme):
    """acme's ids, and those of the organisation that asks."""
    own = stock_client(tracked, keys["other"], OWN)
    folder, own_folder = (each["artifacts"].partition(":/")[2] for each in (acme, own))
    names = {**acme, "folder": folder, "file": f"{folder}/notes.txt", "own_folder": own_folder}
    return names | {f"own_{name}": value for name, value in own.items()}


@pytest.fixture(scope="module", autouse=True)
def untouched(tracked, keys, acme):
    """After all that was tried, acme's things are what they were."""
    before = everything(tracked, keys["acme"], acme)
    assert before["notes"] == SECRET
    yield
    assert everything(tracked, keys["acme"], acme) == before


@pytest.fixture(params=["through the gateway", "behind it"])
def ask(request, tracked, keys):
    """Sends a request as it is, as the other organisation."""
    if request.param == "behind it":  # where nobody is but us: MLflow keeps them apart itself
        user = read_service_user(Settings(home=tracked.home), "other")
        return sender(tracked.mlflow, "", user.headers())
    return sender(tracked.url, "/mlflow", {"Authorization": f"Bearer {keys['other']}"})


@pytest.fixture
def ask_gateway(tracked, keys):
    return sender(tracked.url, "/mlflow", {"Authorization": f"Bearer {keys['other']}"})


def stock_client(tracked, key, secret):
    environment = {"MLFLOW_TRACKING_URI": f"{tracked.url}/mlflow", "MLFLOW_TRACKING_TOKEN": key}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("stock_client.py"), secret],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def sender(base, prefix, identity):
    def send(method, path, body=None, headers=None, **ids):
        """No client library is between: they tidy paths up."""
        quoted = {name: quote(str(value), safe="/") for name, value in ids.items()}
        content = fill(body, ids)
        sent = {"Content-Type": "application/json", **fill(headers or {}, ids), **identity}
        data = content if content is None or isinstance(content, str) else json.dumps(content)
        parts = urlsplit(base)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        connection.request(method, prefix + path.format(**quoted), data, sent)
        answer = connection.getresponse()
        found = SimpleNamespace(status=answer.status, text=answer.read().decode(errors="replace"))
        connection.close()
        return found

    return send


def fill(value, ids):
    if isinstance(value, str):
        return value.format(**ids)
    if isinstance(value, dict):
        return {name: fill(each, ids) for name, each in value.items()}
    return [fill(each, ids) for each in value] if isinstance(value, list) else value


def everything(tracked, key, acme):
    """What acme sees of its own."""

    def get(path, /, **params):
        answer = client.get(path, params=params)
        assert answer.is_success, answer.text
        return answer

    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{tracked.url}/mlflow", headers=headers) as client:
        return {
            "experiments": get(f"{V2}/experiments/search", max_results=100).json(),
            "run": get(f"{V2}/runs/get", run_id=acme["run"]).json(),
            "files": get(f"{V2}/artifacts/list", run_id=acme["run"]).json(),
            "notes": get("/get-artifact", run_id=acme["run"], path="notes.txt").text,
            "models": get(f"{V2}/registered-models/search").json(),
            "versions": get(f"{V2}/model-versions/search").json(),
            "logged": get(f"{V2}/logged-models/{acme['logged']}").json(),
            "trace": get(f"{V3}/traces/{acme['trace']}").json(),
            "dataset": get(f"{V3}/datasets/{acme['dataset']}").json(),
            "records": get(f"{V3}/datasets/{acme['dataset']}/records").json(),
        }


def name(probe):
    return " ".join(str(each) for each in probe if each)[:90] if isinstance(probe, tuple) else None


@pytest.mark.parametrize("probe", THINGS, ids=name)
def test_nothing_of_theirs_is_read_or_changed(ask, ids, probe):
    answer = ask(*probe, **ids)
    shown = answer.text
    for known in (ids["model"], ids["experiment_name"]):  # which we said ourselves
        shown = shown.replace(known, "")
    assert SECRET not in shown
    if answer.status == 200:
        assert answer.text == OWN or not any(json.loads(answer.text).values())
    else:
        assert 400 <= answer.status < 500 or answer.status == 501, answer.text


@pytest.mark.parametrize("probe", SEARCHES, ids=name)
@pytest.mark.parametrize("headers", [{}, *FORGED[:2]], ids=str)
def test_nothing_of_theirs_is_found(ask_gateway, ids, probe, headers):
    answer = ask_gateway(*probe, headers=headers, **ids)
    assert answer.status < 500 or answer.status == 501, answer.text
    assert SECRET not in answer.text
    assert "train_loss" not in answer.text or answer.status >= 400 or "own_" in str(probe)


@pytest.mark.parametrize("probe", FILES, ids=name)
def test_no_file_of_theirs_is_reached(ask, ids, probe):
    answer = ask(*probe, **ids)
    assert SECRET not in answer.text
    if probe[0] == "GET":
        assert answer.status >= 400 or not json.loads(answer.text).get("files"), answer.text


@pytest.mark.parametrize("probe", ADMIN, ids=name)
def test_what_rules_mlflow_is_not_there(ask_gateway, ids, probe):
    answer = ask_gateway(*probe, **ids)
    assert answer.status in (404, 405), answer.text
    assert json.loads(answer.text)["error"]["code"] in ("not_found", "method_not_allowed")


@pytest.mark.parametrize("headers", FORGED, ids=str)
@pytest.mark.parametrize("probe", [THINGS[0], THINGS[7], THINGS[28], FILES[0]], ids=name)
def test_no_header_makes_us_somebody_else(ask_gateway, ids, probe, headers):
    answer = ask_gateway(*probe, headers=headers, **ids)
    assert 400 <= answer.status < 500
    assert SECRET not in answer.text


@pytest.mark.parametrize("query", ["workspace=acme", "X-MLFLOW-WORKSPACE=acme"])
def test_no_query_leads_into_their_workspace(ask_gateway, ids, query):
    answer = ask_gateway("GET", f"{V2}/experiments/search?max_results=100&{query}")
    assert answer.status == 200
    assert SECRET not in answer.text


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("run", ["", "{run}", "{own_run}"])
def test_a_version_of_ours_does_not_lead_to_their_files(ask, ids, source, run):
    body = {"name": "{own_model}", "source": source, **({"run_id": run} if run else {})}
    made = ask("POST", f"{V2}/model-versions/create", body, **ids)
    assert SECRET not in made.text
    if made.status != 200:
        return
    version = json.loads(made.text)["model_version"]["version"]
    for path in ("notes.txt", "passwd", "hostname", "", "."):
        query = urlencode({"name": ids["own_model"], "version": version, "path": path})
        answer = ask("GET", f"/model-versions/get-artifact?{query}".replace("{", "{{"))
        assert answer.status >= 400, answer.text[:200]
    uri = f"{V2}/model-versions/get-download-uri?{query}"
    assert SECRET not in ask("GET", uri).text


def test_our_own_things_are_all_there(ask, ids):
    """The same questions, asked for our own things, are answered: the probes ask rightly."""
    own = {name: ids[f"own_{name}"] for name in ids if f"own_{name}" in ids}
    failed = []
    for probe in THINGS:
        if probe[0] == "GET" and not any(each in probe[1] for each in UNFIT):
            answer = ask(*probe, **own)
            if answer.status != 200:
                failed.append((probe[1], answer.status, answer.text[:200]))
    assert failed == []


def test_an_organisation_by_the_name_of_mlflow_s_admin_is_not_its_admin(tracked):
    tracked.organizations.create("admin")
    key = tracked.organizations.create_key("admin").secret
    send = sender(tracked.url, "/mlflow", {"Authorization": f"Bearer {key}"})
    answer = send("GET", f"{V2}/experiments/search?max_results=100")
    assert answer.status == 200
    assert json.loads(answer.text) == {}


def test_no_password_is_written_anywhere_but_in_its_own_file(tracked):
    for organization in ("acme", "other"):
        user = read_service_user(Settings(home=tracked.home), organization)
        for file in [tracked.log, *tracked.home.rglob("*")]:
            if file.is_file() and file.name != "mlflow-user.json":
                assert user.password.encode() not in file.read_bytes(), file
        kept = tracked.home / "organizations" / organization / "mlflow-user.json"
        assert oct(kept.stat().st_mode)[-3:] == "600"
        assert user.password not in repr(user)
