"""Requests: in time, again where that may help, and their errors; the key in none of them."""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from email.utils import formatdate

import pytest

from finetune_core.exceptions import (
    DatasetFormatError,
    FineTuneError,
    InputError,
    InvalidConfigError,
)
from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from finetune_service.jobs.providers import open_provider
from finetune_service.jobs.providers.openai import OpenaiModel
from finetune_service.sdk.exceptions import ApiError, ApiKeyError
from tests.finetune_service.jobs.providers.conftest import SECRET, Waits
from tests.finetune_service.jobs.providers.openai_server import Answer


def test_retry_after_is_waited_for(make, server):
    server.answers = [Answer(429, {"error": {"message": "slow"}}, {"Retry-After": "1"})]
    began = time.monotonic()
    open_provider(make()).create_fine_tuning_job()
    assert time.monotonic() - began >= 1
    assert server.asked[0][:2] == server.asked[1][:2]
    assert len(server.jobs) == 1


@pytest.mark.parametrize("seconds", [0.5, 300])
def test_also_where_the_client_would_not_wait(make, server, waits, seconds):
    busy = {"error": {"message": "busy"}}
    server.answers = [Answer(503, busy, {"Retry-After": str(seconds)})]
    OpenaiModel(make(), sleep=waits).create_fine_tuning_job()
    (waited,) = waits
    assert seconds <= waited <= 1.1 * seconds


def test_a_date_is_waited_for(make, server, waits):
    storage = make()
    date = formatdate(time.time() + 1000, usegmt=True)
    server.answers = [Answer(503, {"error": {"message": "busy"}}, {"Retry-After": date})]
    OpenaiModel(storage, sleep=waits).create_fine_tuning_job()
    (waited,) = waits
    assert 900 <= waited <= 1100


def test_who_asks_for_hours_is_not_waited_for(make, server, waits):
    server.answers = [Answer(429, {"error": {"message": "later"}}, {"Retry-After": "7200"})]
    with pytest.raises(UnavailableError, match="left alone for 7,200 s"):
        OpenaiModel(make(), sleep=waits).create_fine_tuning_job()
    assert waits == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_pauses_grow_and_end(make, server, waits, status):
    server.answers = [Answer(status, {"error": {"message": "not now"}})] * 9
    with pytest.raises(FineTuneError, match="not now"):
        OpenaiModel(make(), sleep=waits).create_fine_tuning_job()
    assert len(server.asked) == 6
    whole = [0.5, 1, 2, 4, 8]
    for pause, most in zip(waits, whole, strict=True):
        assert 0.75 * most <= pause <= most
    assert len({pause / most for pause, most in zip(waits, whole, strict=True)}) > 1


@pytest.mark.parametrize(
    ("status", "fields", "error", "says"),
    [
        (400, {"param": "model"}, InvalidValueError, "^no$"),
        (401, {}, ApiKeyError, "does not know the key that OPENAI_API_KEY holds"),
        (403, {}, InputError, "no"),
        (404, {}, NotFoundError, "no"),
        (409, {}, ConflictError, "no"),
        (413, {}, TooLargeError, "no"),
        (418, {}, ApiError, "no"),
        (422, {}, InvalidValueError, "no"),
        (429, {"code": "insufficient_quota"}, InputError, "raise the quota"),
    ],
)
def test_what_no_retry_mends(make, server, waits, status, fields, error, says):
    body = {"error": {"message": "no", "type": "x", "param": None, "code": None, **fields}}
    server.answers = [Answer(status, body)]
    with pytest.raises(error, match=says) as refused:
        OpenaiModel(make(), sleep=waits).create_fine_tuning_job()
    assert waits == []
    assert getattr(refused.value, "param", None) == fields.get("param")


@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("body", ["<html>Welcome</html>", {"status": "ok"}, [1], None])
def test_what_speaks_another_language(make, server, at, body):
    server.answers = [None] * at + [Answer(200, body)]
    with pytest.raises(ApiError, match="not as OpenAI's API does"):
        open_provider(make()).create_fine_tuning_job()


def test_nobody_there(make, waits):
    model = OpenaiModel(make(base_url="http://127.0.0.1:9/v1"), sleep=waits)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9/v1 cannot be reached"):
        model.create_fine_tuning_job()
    assert len(waits) == 5


def test_no_more_requests_than_the_limit(make, server, monkeypatch):
    monkeypatch.setenv("FINETUNE_PROVIDER_RATE_LIMIT", "4/second")
    model = open_provider(make())
    began = time.monotonic()
    model.create_fine_tuning_job()  # 5 requests: files, upload, file, jobs, job
    for _ in range(4):
        model.retrieve_finetuning_job()
    assert len(server.asked) == 9
    assert time.monotonic() - began >= 2


def test_a_limit_that_is_none(make, monkeypatch):
    monkeypatch.setenv("FINETUNE_PROVIDER_RATE_LIMIT", "often")
    with pytest.raises(InvalidConfigError, match="FINETUNE_PROVIDER_RATE_LIMIT: must be as"):
        open_provider(make()).create_fine_tuning_job()


@pytest.mark.parametrize("key", [None, "", "two words", "schlüssel", f"{SECRET}\nX: y"])
def test_a_key_that_is_none(make, server, monkeypatch, key):
    if key is None:
        monkeypatch.delenv("OPENAI_API_KEY")
    else:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ApiKeyError, match="OPENAI_API_KEY") as refused:
        open_provider(make()).create_fine_tuning_job()
    assert SECRET not in _all_of(refused.value)
    assert server.asked == []


def test_the_key_is_written_nowhere(make, server, tmp_path, caplog):
    """Not even where the server repeats it in all that it says."""
    caplog.set_level(logging.DEBUG)
    said = f"Incorrect key {SECRET}"
    errors = []
    storage = make()
    model = OpenaiModel(storage, sleep=Waits())
    for status in (400, 401, 404, 429, 500):
        server.answers = [Answer(status, {"error": {"message": said}})] * 6
        with pytest.raises(FineTuneError) as refused:
            model.create_fine_tuning_job()
        errors.append(_all_of(refused.value))
        server.answers = []
    model.create_fine_tuning_job()
    server.jobs[0] |= {"status": "failed", "error": {"code": "c", "message": said}}
    found = model.retrieve_finetuning_job()
    assert found.error == "Incorrect key … (c)"
    server.file_status = ("error", said)
    with pytest.raises(DatasetFormatError) as refused:
        open_provider(make()).create_fine_tuning_job()
    errors.append(_all_of(refused.value))
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 4
    assert not [each for each in written if SECRET.encode() in each]
    assert SECRET not in caplog.text
    assert SECRET not in "".join(errors) + repr(model) + repr(vars(model)) + repr(found)


def _all_of(error: FineTuneError) -> str:
    shown = "".join(traceback.format_exception(error))
    return f"{error!s}{error!r}{error.to_dict()}{pickle.dumps(error)!r}{shown}"
