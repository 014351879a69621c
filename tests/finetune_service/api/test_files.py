"""Files through the official client: up, checked, listed, down, gone."""

from __future__ import annotations

import hashlib
import re

import httpx
import openai
import pytest

from tests.conftest import ROOT
from tests.finetune_service.api.server import served
from tests.waiting import until

BAD = ROOT / "tests/bad_data/files"


def upload(client, name="a.bin", content=b"abc", purpose="user_data", **more):
    return client.files.create(file=(name, content), purpose=purpose, **more)


def test_a_dataset_is_checked_and_comes_back_as_it_was(client, orders):
    file = client.files.create(file=orders, purpose="fine-tune")
    assert (file.status, file.filename, file.object) == ("uploaded", "train.jsonl", "file")
    done = client.files.wait_for_processing(file.id, poll_interval=0.1)
    assert (done.status, done.status_details) == ("processed", None)
    content = orders.read_bytes()
    assert (done.bytes, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    answer = client.files.content(file.id)
    assert answer.read() == content
    disposition = answer.response.headers["content-disposition"]
    assert disposition == "attachment; filename*=utf-8''train.jsonl"


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("truncated_line.jsonl", "error", r"^truncated_line\.jsonl, line 4: is not JSON"),
        ("no_content.jsonl", "error", r"row 2.*content"),
        ("latin1.csv", "error", r"^latin1\.csv, line 3: is not UTF-8"),
        ("top_level_object.json", "error", "not JSON.*may also be a list"),
        ("all_empty.jsonl", "error", r"dropped: 4 empty; the first is row 1"),
        ("wrong_ending.txt", "error", r"\.txt.*\.jsonl"),
        ("empty.jsonl", "error", "no rows"),
        ("damaged.gz", "error", "cannot be read"),
        ("empty_answer.jsonl", "processed", r"^1 of 4 rows dropped \(1 by empty\)$"),
        ("one_row.jsonl", "processed", None),
    ],
)
def test_the_status_names_the_row(api, client, name, status, says):
    source = BAD / name
    content = source.read_bytes() if source.exists() else b"no gzip"
    name = name.replace("damaged.gz", "damaged.jsonl.gz")
    file = client.files.create(file=(name, content), purpose="fine-tune")
    done = client.files.wait_for_processing(file.id, poll_interval=0.1)
    assert done.status == status
    details = done.status_details
    assert re.search(says, details, re.DOTALL) if says else details is None
    assert str(api.home) not in str(details)


def test_pages_are_exact(api):
    client = api.client("pages")
    ids = [upload(client, content=bytes([number])).id for number in range(5)]
    page = client.files.list(limit=2)
    assert ([each.id for each in page.data], page.has_more) == (ids[:2:-1], True)
    assert (page.first_id, page.last_id) == (ids[4], ids[3])
    assert [each.id for each in client.files.list(limit=2, order="asc")] == ids
    last = client.files.list(limit=2, order="asc", after=ids[2])
    assert ([each.id for each in last.data], last.has_more) == (ids[3:], False)
    assert [each.id for each in client.files.list(purpose="fine-tune")] == []
    client.files.delete(ids[3])
    assert [each.id for each in client.files.list(limit=2, after=ids[3])] == ids[2::-1]


def test_a_deleted_file_is_gone(client):
    file = upload(client)
    deleted = client.files.delete(file.id)
    assert deleted.model_dump() == {"id": file.id, "deleted": True, "object": "file"}
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)


def test_a_file_that_a_job_needs_is_refused_in_one_attempt(api, client):
    file = upload(client, "needed.bin")
    (api.home / "needed").write_text(f"acme/{file.id}")
    with pytest.raises(openai.ConflictError) as refused:
        client.files.delete(file.id)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert api.log.read_text().count(f"DELETE /v1/files/{file.id}") == 1
    (api.home / "needed").write_text("")
    assert client.files.delete(file.id).deleted


def test_an_expiry_is_set_and_kept(client):
    after = {"anchor": "created_at", "seconds": 3600}
    file = upload(client, expires_after=after)
    assert file.expires_at == file.created_at + 3600
    for wrong in ({**after, "seconds": 3599}, {**after, "anchor": "now"}):
        with pytest.raises(openai.BadRequestError, match="expires_after"):
            upload(client, expires_after=wrong)


@pytest.mark.parametrize("purpose", ["fine-tune-results", "nix", ""])
def test_a_purpose_that_is_not_to_be_uploaded(client, purpose):
    with pytest.raises(openai.BadRequestError) as refused:
        upload(client, purpose=purpose)
    assert refused.value.param == "purpose"


def test_a_filename_from_outside_leads_nowhere(api, client):
    file = upload(client, "../../../etc/x\u202e.jsonl")
    assert file.filename == "x.jsonl"
    inside = {path.name for path in (api.home / "organizations/acme/files/content").rglob("*")}
    assert not any("etc" in name or ".." in name for name in inside)


PART = b'--B\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\nx'
PURPOSE = b'\r\n--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "before its last boundary"),
        (b"no form at all", "cannot be read"),
        (PART % b"file", "before its last boundary"),
        (PART % b"other" + PURPOSE + b"\r\n--B--\r\n", "no file"),
        (PART % b"file" + b"\r\n" + PART % b"file" + b"\r\n--B--\r\n", "more than one"),
        (PART % b"file" + b"\r\n--B--\r\n", "purpose"),
        (PURPOSE[2:] + b"\r\n--B--\r\n", "no file"),
    ],
)
def test_a_broken_form_is_the_callers_fault(api, body, says):
    headers = {
        "Authorization": f"Bearer {api.key()}",
        "Content-Type": "multipart/form-data; boundary=B",
    }
    answer = httpx.post(f"{api.url}/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert not list((api.home / "organizations/acme/files/incoming").iterdir())


def test_a_killed_server_takes_the_check_up_again(tmp_path, orders):
    rows = orders.read_bytes() * 20
    with served(tmp_path) as api:
        key = api.key()
        file = api.client(api_key=key).files.create(file=("a.jsonl", rows), purpose="fine-tune")
        working = tmp_path / "organizations/acme/validations" / file.id
        until(lambda: list(working.glob("*-request.json")), "the check does not begin")
        api.kill()
        record = tmp_path / f"organizations/acme/files/records/{file.id}.json"
        assert '"status": "uploaded"' in record.read_text()
    with served(tmp_path) as api:
        client = api.client(api_key=key)
        done = client.files.wait_for_processing(file.id, poll_interval=0.1)
        assert done.status == "processed"
        assert "duplicate" in done.status_details
        until(lambda: not working.exists(), "the check's folder stays")


def test_a_flood_is_checked_a_few_at_a_time(tmp_path, orders):
    with served(tmp_path, FINETUNE_VALIDATIONS="1") as first, served(tmp_path) as second:
        client = first.client()
        ids = [
            client.files.create(file=(f"{n}.jsonl", orders.read_bytes()), purpose="fine-tune").id
            for n in range(4)
        ]
        folder = tmp_path / "organizations/acme/validations"

        def done() -> bool:
            # One each: the second takes up only what nobody is at.
            assert len([path for path in folder.glob("file-*") if path.is_dir()]) <= 2
            return all(client.files.retrieve(each).status == "processed" for each in ids)

        until(done, "the files are not checked")
        assert second.process.poll() is None
