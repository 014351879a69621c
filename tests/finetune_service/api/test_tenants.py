"""What is another organisation's is not there: the same answer as for what nobody has."""

from __future__ import annotations

import httpx
import openai
import pytest

NOBODYS = "0" * 24


@pytest.fixture(scope="module")
def theirs(client) -> dict[str, str]:
    file = client.files.create(file=("a.bin", b"secret"), purpose="user_data")
    upload = client.uploads.create(
        filename="a.bin", purpose="user_data", bytes=3, mime_type="text/plain"
    )
    part = client.uploads.parts.create(upload.id, data=b"abc")
    return {"file": file.id, "upload": upload.id, "part": part.id}


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/files/{file}", None),
        ("GET", "/files/{file}/content", None),
        ("DELETE", "/files/{file}", None),
        ("POST", "/uploads/{upload}/parts", "form"),
        ("POST", "/uploads/{upload}/complete", {"part_ids": ["{part}"]}),
        ("POST", "/uploads/{upload}/cancel", None),
    ],
)
def test_an_id_of_theirs_is_as_one_of_nobody(api, theirs, method, path, body, prefix):
    headers = {"Authorization": f"Bearer {api.key('other')}"}
    answers = []
    for ids in (theirs, {kind: f"{kind}-{NOBODYS}" for kind in theirs}):
        sent = {"files": {"data": ("data", b"x")}} if body == "form" else {"json": body}
        answer = httpx.request(
            method, api.url + prefix + path.format(**ids), headers=headers, **sent
        )
        told = answer.text
        for kind, value in ids.items():
            told = told.replace(value, kind)
        shown = {name for name in answer.headers if name not in ("x-request-id", "date")}
        answers.append((answer.status_code, told, shown))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


def test_nothing_of_theirs_is_listed_and_all_of_it_is_still_there(client, stranger, theirs):
    assert list(stranger.files.list()) == []
    assert client.files.content(theirs["file"]).read() == b"secret"
    done = client.uploads.complete(theirs["upload"], part_ids=[theirs["part"]])
    assert done.file.bytes == 3


def test_a_part_of_theirs_completes_no_upload_of_ours(client, stranger):
    theirs = client.uploads.create(filename="a", purpose="user_data", bytes=3, mime_type="x/y")
    part = client.uploads.parts.create(theirs.id, data=b"abc")
    ours = stranger.uploads.create(filename="a", purpose="user_data", bytes=3, mime_type="x/y")
    for wrong in (
        part.id,
        f"../{theirs.id}/{part.id}",
        f"../../../acme/uploads/{theirs.id}/{part.id}",
    ):
        with pytest.raises(openai.BadRequestError, match="no such part"):
            stranger.uploads.complete(ours.id, part_ids=[wrong])


@pytest.mark.parametrize(
    "file_id",
    ["..%2F..%2Facme%2Ffiles", "%2e%2e", "..%5c..", "%00", "file-%00", "%ff", "a" * 4000, "~", "*"],
)
def test_no_path_leads_out(api, file_id):
    headers = {"Authorization": f"Bearer {api.key('other')}"}
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert httpx.get(api.url + path, headers=headers).status_code == 404
    answer = httpx.get(f"{api.url}/v1/files", params={"after": file_id}, headers=headers)
    assert answer.status_code == 400
