"""What somebody sends who means no good, or whose program is broken: refused, and by its name."""

from __future__ import annotations

import gzip
import io
import json
import socket
import zipfile
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.conftest import ROOT
from tests.finetune_service.api.server import Server, served
from tests.finetune_service.api.test_app import error_of

JOBS = "/v1/fine_tuning/jobs"
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
# What is not to be found, wherever an id or a name stands.
NAMES = [
    "..%2F..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "%2e%2e%2f", "..%5c..%5cboot.ini", "%00",
    "job.json%00", "%ff%fe", "%E2%80%AE", "%F0%9F%92%A9", "a" * 4000, "*", "~root", "%25%32%65",
    "%0d%0aSet-Cookie:%20a=b", "__proto__", "constructor", "__class__", "null", "undefined", "-1",
    "%7B%7B7*7%7D%7D", "$%7Bjndi:ldap:%2F%2Fa%7D", "'%20OR%20'1'='1", "ft:", "ft:%2F..:acme::",
    "@", "@1", "a@@", "a@latest@1", ":::", "%3F", "%23",
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[Server]:
    """Without Prefect: what gets so far as to be submitted answers 503."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "home").mkdir()
    listed = folder / "base_models.yaml"
    listed.write_text(f"tiny: {ROOT / 'examples' / 'tiny_base'}\n")
    defaults = folder / "defaults.yaml"
    defaults.write_text("dataset: {max_unpacked_mb: {default: 8}}")
    with served(
        folder / "home",
        FINETUNE_BASE_MODELS=str(listed),
        FINETUNE_DEFAULTS=str(defaults),
        FINETUNE_MAX_FILE_BYTES="1000000",
        PREFECT_API_URL="http://127.0.0.1:9/api",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def http(api) -> httpx.Client:
    headers = {"Authorization": f"Bearer {api.key()}"}
    return httpx.Client(base_url=api.url, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def client(api) -> openai.OpenAI:
    return api.client(max_retries=0)


@pytest.fixture(scope="module")
def file(client) -> str:
    found = client.files.create(file=("a.jsonl", ROW * 3), purpose="fine-tune")
    assert client.files.wait_for_processing(found.id, poll_interval=0.1).status == "processed"
    return found.id


@pytest.fixture(scope="module")
def wanted(file):
    """A body that is all right, so that what is wrong is what a test puts into it."""
    return lambda **fields: {"model": "tiny", "training_file": file, **fields}


def refused(answer: httpx.Response, param: str | None = None, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    if param is not None:
        assert error["param"] == param
    return error["message"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:30])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files/{}"), ("GET", "/files/{}/content"), ("DELETE", "/files/{}"),
        ("POST", "/uploads/{}/cancel"), ("GET", "/fine_tuning/jobs/{}"),
        ("GET", "/fine_tuning/jobs/{}/events"), ("GET", "/fine_tuning/jobs/{}/checkpoints"),
        ("DELETE", "/fine_tuning/jobs/{}"), ("POST", "/fine_tuning/jobs/{}/pause"),
        ("GET", "/fine_tuning/checkpoints/{}/permissions"), ("GET", "/models/{}"),
        ("GET", "/models/{}/files"), ("GET", "/models/{}/content"), ("DELETE", "/models/{}"),
    ],
)  # fmt: skip
def test_a_name_leads_nowhere(http, method, path, name):
    answer = http.request(method, "/v1" + path.format(name))
    refused(answer, status=404)
    assert "set-cookie" not in answer.headers
    assert "root:" not in answer.text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("%3F", "%23")])
def test_a_name_in_the_hub_leads_nowhere(http, name):
    for kind in ("models", "adapters"):
        refused(http.get(f"/v1/hub/{kind}/{name}"), status=404)


@pytest.mark.parametrize(
    "model",
    [
        "/etc/passwd", "../../etc", "..", ".", "./examples/tiny_base", "examples/tiny_base",
        "file:///etc/passwd", "C:\\models", "~/models", "s3://bucket/model", "https://a/b", "a/b/c",
        "tiny\0", "tiny\n", " tiny", "tiny/", "/tiny", "a" * 257, "💩", "t\u0456ny", "",
        "--trust-remote-code", "-rf", "tiny@main", "tiny;id", "$(id)", "a/..", "../a",
        "ft:tiny:acme:x:00000000", str(ROOT / "examples" / "tiny_base"), None, 7, ["tiny"],
        {"path": "/etc"},
    ],
)  # fmt: skip
def test_a_base_model_is_no_path(http, wanted, model):
    refused(http.post(JOBS, json=wanted(model=model)), "model")


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"dataset": {"path": "/etc/passwd"}}, "config.dataset.path"),
        ({"dataset": {"validation_path": "/etc/passwd"}}, "config.dataset.validation_path"),
        ({"dataset": {"evaluation_path": "/etc/passwd"}}, "config.dataset.evaluation_path"),
        ({"dataset": {"source": "huggingface"}}, "config.dataset.source"),
        ({"dataset": {"revision": "main"}}, "config.dataset.revision"),
        ({"dataset": {"trust_remote_code": True}}, "config.dataset.trust_remote_code"),
        ({"model": {"name": "/etc"}}, "config.model.name"),
        ({"model": {"trust_remote_code": True}}, "config.model.trust_remote_code"),
        ({"training": {"output_dir": "/tmp"}}, "config.training.output_dir"),
        ({"training": {"trust_remote_code": True}}, "config.training.trust_remote_code"),
        ({"training": {"resume_from_checkpoint": "/"}}, "config.training.resume_from_checkpoint"),
        ({"evaluation": {"metrics": ["/tmp/a.py"]}}, "config.evaluation.metrics"),
        ({"evaluation": {"metrics": ["../a.py"]}}, "config.evaluation.metrics"),
        ({"evaluation": {"metrics": ["/tmp/a"]}}, "config.evaluation.metrics.0"),
        ({"evaluation": {"metrics": ["user/space"]}}, "config.evaluation.metrics.0"),
        ({"evaluation": {"metrics": "/tmp/a.py"}}, "config.evaluation.metrics"),
        ({"registry": {"model_name": "../x"}}, "config.registry.model_name"),
        ({"registry": {"model_name": "a/b"}}, "config.registry.model_name"),
        ({"registry": {"model_name": "x" * 5000}}, "config.registry.model_name"),
        ({"registry": {"alias": "../x"}}, "config.registry.alias"),
        ({"__proto__": {"a": 1}}, "config.__proto__"),
        ({"constructor": {}}, "config.constructor"),
        ({"__class__": {"__init__": 1}}, "config.__class__"),
        ({"training": {"__class__": 1}}, "config.training.__class__"),
        ({"training": {"epochs": "1; import os"}}, "config.training.epochs"),
        ({"training": {"epochs": 1e308}}, "config.training.epochs"),
        ({"training": {"learning_rate": -1}}, "config.training.learning_rate"),
        ({"": {}}, "config."),
        ([], "config"),
        ("training", "config"),
        ({"training": []}, "config.training"),
        ({"training": None}, "config.training"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_config_names_neither_paths_nor_code(http, wanted, config, param):
    refused(http.post(JOBS, json=wanted(config=config)), param)


HYPERPARAMETERS = [
    *(("n_epochs", value) for value in (0, -1, 51, 1.5, "1", True, 10**400, None, [], {}, "AUTO")),
    *(("batch_size", value) for value in (0, -1, 257, 0.5, "8", False, 2**63, [8])),
    *(("learning_rate_multiplier", value) for value in (0, -1, "1", True, 1e308, 1e-320, [1])),
    *(("learning_rate", value) for value in (0, -1e-3, "0.1", 1e308)),
    *(("lora_rank", value) for value in (0, -8, 8.5, "8", 10**9, True)),
    *(("lora_alpha", value) for value in (0, -1, "a", 10**400)),
    *(("lora_dropout", value) for value in (-0.1, 1, 2, "0.1")),
    ("trust_remote_code", True), ("__proto__", {}), ("output_dir", "/tmp"), ("", 1), ("a" * 99, 1),
]  # fmt: skip
NOTHING = (("n_epochs", None),)  # as if it were not said


@pytest.mark.parametrize(
    ("name", "value"),
    [each for each in HYPERPARAMETERS if each not in NOTHING],
    ids=lambda value: ascii(value)[:30],
)
@pytest.mark.parametrize("where", ["hyperparameters", "method"])
def test_a_hyperparameter_out_of_range_is_named(http, wanted, name, value, where):
    fields = {name: value}
    body = {"hyperparameters": fields}
    if where == "method":
        body = {"method": {"type": "supervised", "supervised": body}}
        where = "method.supervised.hyperparameters"
    else:
        where = "hyperparameters"
    refused(http.post(JOBS, json=wanted(**body)), f"{where}.{name}")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"), ({"seed": "1"}, "seed"),
        ({"seed": 1.0}, "seed"), ({"suffix": ""}, "suffix"), ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "../.."}, "suffix"), ({"suffix": "\0"}, "suffix"), ({"suffix": "💩"}, "suffix"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"), ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"), ({"metadata": {"k": None}}, "metadata.k"),
        ({"metadata": {"k": {"a": "b"}}}, "metadata.k"), ({"metadata": ["k"]}, "metadata"),
        ({"metadata": {"k": "\0"}}, "metadata.k"), ({"metadata": {"\0": "v"}}, "metadata.\0"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"training_file": "file-nix"}, "training_file"), ({"training_file": ""}, "training_file"),
        ({"training_file": "/etc/passwd"}, "training_file"),
        ({"training_file": 1}, "training_file"),
        ({"training_file": "../a"}, "training_file"), ({"training_file": None}, "training_file"),
        ({"validation_file": "file-nix"}, "validation_file"),
        ({"__proto__": {"admin": True}}, "__proto__"), ({"organization": "other"}, "organization"),
        ({"organization_id": "other"}, "organization_id"), ({"id": "ftjob-1"}, "id"),
        ({"trust_remote_code": True}, "trust_remote_code"), ({"status": "succeeded"}, "status"),
        ({"method": {"type": "lora", "trust": 1}}, "method.trust"),
        ({"method": "dpo"}, "method.type"), ({"method": {"type": "lora", "dpo": {}}}, "method.dpo"),
        ({"method": {}}, "method.type"), ({"method": []}, "method"), ({"method": 1}, "method"),
        ({"method": {"type": "lora", "qlora": {}}}, "method.qlora"),
        ({"hyperparameters": []}, "hyperparameters"),
        ({"hyperparameters": "auto"}, "hyperparameters"),
    ],
    ids=lambda value: ascii(value)[:50],
)  # fmt: skip
def test_a_field_of_a_job_is_named(http, wanted, fields, param):
    answer = http.post(JOBS, json=wanted(**fields))
    status = 404 if fields.get(param) in ("file-nix", "/etc/passwd", "../a") else 400
    refused(answer, param, status)


def test_what_is_at_the_limits_is_taken(http, wanted):
    """It gets as far as to Prefect, which is not there."""
    fields = {
        "metadata": {f"{n:064}": "💩" * 512 for n in range(16)},
        "suffix": "x" * 64,
        "seed": 2**32 - 1,
        "hyperparameters": {"n_epochs": 10, "batch_size": 256, "learning_rate_multiplier": 0.01},
    }
    answer = http.post(JOBS, json=wanted(**fields))
    refused(answer, status=503)
    assert int(answer.headers["retry-after"]) > 0
    assert http.get(JOBS).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/files/{}"), ("DELETE", "/files/{}"), ("GET", "/files/{}/content")],
)
def test_no_time_tells_whose_an_id_is(api, file, method, path):
    """Of pairs, about as often the one as the other takes longer: a sign test, of 4 sigma."""
    headers = {"Authorization": f"Bearer {api.key('other')}"}
    slower, pairs = 0, 200
    with httpx.Client(base_url=f"{api.url}/v1", headers=headers) as stranger:

        def seconds(file_id: str) -> float:
            answer = stranger.request(method, path.format(file_id))
            refused(answer, status=404)
            return answer.elapsed.total_seconds()

        nobodys = f"file-{'0' * 24}"
        for pair in range(pairs):  # in turns, as the second of two may be the faster
            order = (file, nobodys) if pair % 2 else (nobodys, file)
            took = {file_id: seconds(file_id) for file_id in order}
            slower += took[file] > took[nobodys]
    assert abs(slower - pairs / 2) < 4 * (pairs / 4) ** 0.5


BODIES = {
    "deep list": b'{"config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"config": {"training": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_002,
    "deep enough for a tree": b'{"config": {"training": ' + b'{"a":' * 300 + b"1" + b"}" * 302,
    "huge integer": b'{"seed": ' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"seed": 1e999999}',
    "NaN": b'{"hyperparameters": {"learning_rate_multiplier": NaN}}',
    "Infinity": b'{"hyperparameters": {"learning_rate_multiplier": Infinity}}',
    "cut": b'{"model": "tiny"',
    "two values": b'{"model": "tiny"} {"model": "tiny"}',
    "no object": b"[]",
    "null": b"null",
    "text": b'"tiny"',
    "nothing": b"",
    "no utf-8": b'{"model": "\xff\xfe"}',
    "utf-16": '{"model": "tiny"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"model": "tiny"}',
    "lone surrogate": b'{"model": "\\ud800", "training_file": "\\udfff"}',
    "single quotes": b"{'model': 'tiny'}",
    "comment": b'{"model": "tiny" /* */}',
    "yaml": b"model: tiny\ntraining_file: &a [*a]",
    "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "gzip": gzip.compress(b"{}"),
    "NUL": b"\0" * 1000,
    "long key": json.dumps({"k" * 1_000_000: 1}).encode(),
    "many keys": json.dumps({f"k{n}": n for n in range(50_000)}).encode(),
}


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.api+json"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("path", [JOBS, "/v1/uploads", f"{JOBS}/x/events"])
def test_a_broken_body_is_the_callers_fault(http, path, body, kind):
    answer = http.post(path, content=body, headers={"Content-Type": kind})
    message = refused(answer, status=405 if path.endswith("events") else 400)
    assert len(message) < 10_000
    assert http.get("/health").is_success


def test_of_a_key_that_is_there_twice_the_last_counts(http, wanted):
    body = json.dumps(wanted(suffix="first"))[:-1] + ', "model": "/etc/passwd"}'
    answer = http.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    refused(answer, "model")


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/x-yaml",
     "application/x-python-pickle", "", "a/b/c", ";", "application/json; charset=utf-7"],
)  # fmt: skip
def test_another_content_type_is_read_as_what_it_says(http, wanted, kind):
    content = json.dumps(wanted()).encode()
    answer = http.post(JOBS, content=content, headers={"Content-Type": kind})
    refused(answer, status=503 if kind.startswith("application/json") else 400)


def test_too_much_json_is_not_read(http):
    refused(http.post(JOBS, content=b" " * 3_000_000), status=413)
    blocks = (b" " * 100_000 for _ in range(100))  # chunked: its length is not said
    refused(http.post(JOBS, content=blocks), status=413)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PATCH", "PUT", "CONNECT", "NIX"])
@pytest.mark.parametrize("path", ["/v1/files", JOBS, "/v1/models", "/v1/hub/models", "/health"])
def test_a_method_that_is_not_there(http, method, path):
    answer = http.request(method, path, headers={"X-Secret": "mirrored", "Max-Forwards": "0"})
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]
    assert answer.headers["x-request-id"]
    assert "mirrored" not in answer.text
    if method == "HEAD":
        assert answer.content == b""
    else:
        error_of(answer)


@pytest.mark.parametrize(
    "headers",
    [
        {"OpenAI-Organization": "other", "OpenAI-Project": "other"},
        {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/v1/hub/models", "X-User": "admin"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"x-request-id": "chosen\tby me"},
        {"Host": "evil.example"},
        {"Accept": "text/html", "Accept-Encoding": "nix"},
        {"Range": "bytes=0-1"},
        {"Cookie": "a=" + "b" * 4000},
        {"Expect": "nix"},
    ],
    ids=str,
)
def test_a_header_changes_nothing(http, file, headers):
    answer = http.get(f"/v1/files/{file}", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["id"] == file
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "authorization",
    ["Bearer sk-ft-\xff", "Bearer " + "x" * 20_000, "bearer", "Bearer null",
     "Bearer a b", "Digest x", "Basic QQ==", "Bearer sk-ft-%00%00%00%00", "Bearer ../keys.json"],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_no_such_key(api, authorization):
    answer = httpx.get(
        f"{api.url}/v1/files", headers={"Authorization": authorization.encode("latin-1")}
    )
    refused(answer, status=401)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"POST /v1/uploads HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n",
        b"POST /v1/uploads HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        b"GET /v1/files\0 HTTP/1.1\r\nHost: a\r\n",
        b"GET  HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /v1/files HTTP/9.9\r\nHost: a\r\n",
    ],
    ids=lambda raw: ascii(raw)[:40],
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(api, raw):
    with socket.create_connection(("127.0.0.1", api.port), 10) as connection:
        connection.sendall(raw + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert not answer or answer.split(b" ")[1] in (b"400", b"401")
    assert httpx.get(f"{api.url}/health").is_success


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/etc/passwd", "passwd"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("a\0b.jsonl", "ab.jsonl"),
        ("a\u202egnp.jsonl", "agnp.jsonl"),
        ("a: &a [*a, *a]\nb: *a", "a: &a [*a, *a]b: *a"),
        ("!!python/object/apply:os.system ['id']", "apply:os.system ['id']"),
        ("$(id);`id`|id.jsonl", "$(id);`id`|id.jsonl"),
        ("💩" * 300, "💩" * 63),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_filename_is_only_a_name(http, client, name, shown):
    upload = http.post(
        "/v1/uploads",
        json={"filename": name, "purpose": "user_data", "bytes": 1, "mime_type": "a/b"},
    ).json()
    assert upload["filename"] == shown
    part = client.uploads.parts.create(upload["id"], data=b"x")
    made = client.uploads.complete(upload["id"], part_ids=[part.id]).file
    answer = http.get(f"/v1/files/{made.id}/content")
    assert answer.content == b"x"
    header = answer.headers["content-disposition"]
    assert header.startswith("attachment; filename*=utf-8''")
    assert not set(header) & set('\r\n"/\\<>')


def _zip(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.jsonl", content)
        archive.writestr("../../escaped.jsonl", content)
    return made.getvalue()


NUL_ROW = ROW.replace(b'"a"', b'"a\\u0000"')
UPLOADS = {
    "NUL bytes": ("a.jsonl", b"\0" * 10_000),
    "NUL in a line": ("a.jsonl", ROW + b"\0\n" + ROW),
    "deep": ("a.jsonl", b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "deep json": ("a.json", b"[" * 100_000),
    "huge number": ("a.jsonl", b'{"messages": ' + b"9" * 100_000 + b"}\n"),
    "NaN": ("a.jsonl", b'{"messages": NaN}\n'),
    "no utf-8": ("a.jsonl", b"\xff\xfe\x00\xd8" * 100),
    "nothing": ("a.jsonl", b""),
    "a BOM alone": ("a.jsonl", b"\xef\xbb\xbf"),
    "no ending": ("data", b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "pickle": ("a.pkl", b"\x80\x04cos\nsystem\n(S'id'\ntR."),
    "code": ("a.py", b"import os; os.abort()"),
    "zip": ("a.zip", _zip(ROW)),
    "no gzip": ("a.jsonl.gz", ROW),
    "cut gzip": ("a.jsonl.gz", gzip.compress(ROW * 1000, mtime=0)[:-20]),
    "gzip of a gzip": ("a.jsonl.gz", gzip.compress(gzip.compress(ROW, mtime=0), mtime=0)),
    "no parquet": ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1"),
    "csv formulas without columns": ("a.csv", b"=cmd|'/c calc'!A0,1\n2,3\n"),
    "csv NUL": ("a.csv", b"prompt,completion\n\0,\0\n"),
    "csv with a quote that never ends": ("a.csv", b'prompt,completion\n"' + b"a" * 200_000),
    "xml": ("a.jsonl", BODIES["xml"]),
}


@pytest.fixture(scope="module")
def checked(client) -> dict[str, openai.types.FileObject]:
    """All at once: their checks wait for each other."""
    made = {
        name: client.files.create(file=file, purpose="fine-tune") for name, file in UPLOADS.items()
    }
    return {
        name: client.files.wait_for_processing(each.id, poll_interval=0.1)
        for name, each in made.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_that_is_no_data_says_so(api, client, checked, name):
    found = checked[name]
    assert found.status == "error"
    assert found.status_details
    assert "Traceback" not in found.status_details
    assert "the check itself failed" not in found.status_details
    assert str(api.home) not in found.status_details
    with pytest.raises(openai.BadRequestError) as error:
        client.fine_tuning.jobs.create(model="tiny", training_file=found.id)
    assert error.value.param == "training_file"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", b"\xef\xbb\xbf" + ROW * 3),
        ("crlf.jsonl", (ROW * 3).replace(b"\n", b"\r\n")),
        ("a.jsonl.gz", gzip.compress(ROW * 3, mtime=0)),
    ],
)
def test_an_upload_that_is_odd_but_data_is_taken(client, name, content):
    made = client.files.create(file=(name, content), purpose="fine-tune")
    found = client.files.wait_for_processing(made.id, poll_interval=0.1)
    assert found.status == "processed", found.status_details


def test_a_zip_bomb_is_not_unpacked(api, client):
    bomb = gzip.compress(b"\0" * 100_000_000)
    made = client.files.create(file=("bomb.jsonl.gz", bomb), purpose="fine-tune")
    found = client.files.wait_for_processing(made.id, poll_interval=0.1)
    assert found.status == "error"
    assert "unpacks to more than 8 MiB" in found.status_details
