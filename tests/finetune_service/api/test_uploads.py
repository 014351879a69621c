"""Uploads in parts, through the official client."""

from __future__ import annotations

import hashlib

import openai
import pytest


def begin(client, size=6, **more):
    return client.uploads.create(
        filename="t.bin", purpose="user_data", bytes=size, mime_type="text/plain", **more
    )


def test_a_file_in_parts_is_one_file(client, orders):
    upload = client.uploads.upload_file_chunked(
        file=orders, mime_type="application/jsonl", purpose="fine-tune", part_size=50_000,
        md5=hashlib.md5(orders.read_bytes()).hexdigest(),
    )  # fmt: skip
    assert (upload.status, upload.file.object) == ("completed", "file")
    done = client.files.wait_for_processing(upload.file.id, poll_interval=0.1)
    assert (done.status, done.filename) == ("processed", "train.jsonl")
    assert client.files.content(done.id).read() == orders.read_bytes()


def test_the_order_is_the_callers(client):
    upload = begin(client, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload.status, upload.expires_at) == ("pending", upload.created_at + 3600)
    last = client.uploads.parts.create(upload.id, data=b"def")
    first = client.uploads.parts.create(upload.id, data=b"abc")
    done = client.uploads.complete(upload.id, part_ids=[first.id, last.id])
    assert client.files.content(done.file.id).read() == b"abcdef"
    assert done.file.expires_at == done.file.created_at + 7200


def test_what_cannot_be_completed(client):
    upload = begin(client)
    part = client.uploads.parts.create(upload.id, data=b"abc")
    for wrong in (
        {"part_ids": [part.id]},
        {"part_ids": []},
        {"part_ids": ["../x"]},
        {"part_ids": [part.id, part.id]},
        {"part_ids": [part.id], "md5": "nix"},
    ):
        with pytest.raises(openai.BadRequestError):
            client.uploads.complete(upload.id, **wrong)
    assert client.uploads.cancel(upload.id).status == "cancelled"
    for call in (
        lambda: client.uploads.cancel(upload.id),
        lambda: client.uploads.complete(upload.id, part_ids=[part.id]),
        lambda: client.uploads.parts.create(upload.id, data=b"abc"),
    ):
        with pytest.raises(openai.ConflictError, match="cancelled"):
            call()


def test_an_upload_that_would_be_too_large(client):
    with pytest.raises(openai.APIStatusError) as refused:
        begin(client, size=1_000_001)
    assert refused.value.status_code == 413
