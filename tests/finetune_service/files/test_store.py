"""The file store, on a folder and on another of fsspec's file systems."""

from __future__ import annotations

import io
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
)
from finetune_service.files import FileStore, Uploads

ROWS = b'{"prompt": "a", "completion": "b"}\n'


class Clock:
    time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["folder", "memory"])
def files(request, tmp_path, clock) -> FileStore:
    url = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else None
    return FileStore(tmp_path, url, now=clock)


def put(files, content=ROWS, filename="train.jsonl", purpose="fine-tune", organization="acme"):
    return files.put(organization, io.BytesIO(content), filename=filename, purpose=purpose)


def content(files, record, organization="acme") -> bytes:
    with files.open(organization, record) as file:
        return file.read()


def test_a_file_is_kept_and_found(files):
    record = put(files)
    assert files.get("acme", record.id) == record
    assert content(files, record) == ROWS
    path = files.local_path("acme", record)
    assert (path.suffix, path.read_bytes()) == (".jsonl", ROWS)
    assert (record.status, put(files, purpose="user_data").status) == ("uploaded", "processed")


def test_equal_bytes_are_kept_once_and_as_long_as_a_file_needs_them(files):
    first, second = put(files), put(files)
    folder = files.folder("acme")
    assert len(folder.names("files/content")) == 1
    files.delete("acme", first.id)
    assert content(files, second) == ROWS
    files.delete("acme", second.id)
    assert folder.names("files/content") == []
    for gone in (lambda: files.get("acme", first.id), lambda: files.open("acme", first)):
        with pytest.raises(NotFoundError):
            gone()


def test_equal_bytes_that_come_and_go_at_once_are_never_lost(files, tmp_path):
    def come_and_go(_: int) -> None:
        for _ in range(5):
            record = put(files)
            assert content(files, record) == ROWS
            files.delete("acme", record.id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert files.folder("acme").names("files/records") == []
    assert files.folder("acme").names("files/content") == []


def test_another_organisation_finds_nothing(files):
    record = put(files)
    for file_id in (record.id, "file-" + "0" * 24, "../../acme/files/records/" + record.id):
        with pytest.raises(NotFoundError, match=f"^No such File object: {file_id}$"):
            files.get("other", file_id)
    assert list(files.list("other")) == []


def test_files_are_listed_by_time(files):
    ids = [put(files, purpose=purpose).id for purpose in ("fine-tune", "user_data") * 2]
    order = sorted(ids)
    assert [each.id for each in files.list("acme", descending=False)] == order
    assert [each.id for each in files.list("acme")] == order[::-1]
    assert [each.id for each in files.list("acme", after=order[2])] == order[1::-1]
    assert {each.id for each in files.list("acme", purpose="user_data")} == {ids[1], ids[3]}
    with pytest.raises(InvalidValueError):
        list(files.list("acme", after="../x"))


def test_a_file_that_a_job_needs_stays(files, clock):
    record = put(files)
    files.in_use = lambda organization, file_id: (organization, file_id) == ("acme", record.id)
    with pytest.raises(ConflictError, match="queued or running"):
        files.delete("acme", record.id)
    assert content(files, record) == ROWS


def test_an_expired_file_vanishes(files, clock):
    with files.incoming("acme") as incoming:
        incoming.write(ROWS)
        record = files.add("acme", incoming, filename="a.jsonl", purpose="fine-tune", lifetime=3600)
    clock.time += 3599
    assert files.get("acme", record.id)
    clock.time += 1
    with pytest.raises(NotFoundError):
        files.get("acme", record.id)
    assert list(files.list("acme")) == []
    files.in_use = lambda organization, file_id: True
    files.sweep("acme")
    assert content(files, record) == ROWS  # what a job reads is not taken from under it
    files.in_use = lambda organization, file_id: False
    files.sweep("acme")
    assert files.folder("acme").names("files/records") == []
    assert files.folder("acme").names("files/content") == []


def test_what_never_finished_arriving_is_swept_up(files, clock):
    incoming = files.incoming("acme")  # as by a process that was killed
    incoming.write(ROWS)
    folder = files.folder("acme")
    clock.time = 0
    files.sweep("acme")
    assert len(folder.names("files/incoming")) == 1
    clock.time = 10**11
    files.sweep("acme")
    assert folder.names("files/incoming") == []


def test_a_failed_arrival_leaves_nothing(files):
    def arrive() -> None:
        with files.incoming("acme") as incoming:
            incoming.write(ROWS)
            raise OSError("the line is cut")

    with pytest.raises(OSError, match="the line is cut"):
        arrive()
    assert files.folder("acme").names("files/incoming") == []


def test_a_status_is_not_written_of_a_deleted_file(files):
    record = put(files)
    files.delete("acme", record.id)
    files.set_status("acme", record.id, "processed", None)
    with pytest.raises(NotFoundError):
        files.get("acme", record.id)


class TestUploads:
    @pytest.fixture
    def uploads(self, files) -> Uploads:
        return Uploads(files, max_bytes=1000)

    def begin(self, uploads, size=6):
        return uploads.create("acme", filename="../t.jsonl", purpose="fine-tune", size=size).id

    def part(self, uploads, upload_id, block: bytes, organization="acme") -> str:
        with uploads.incoming(organization) as incoming:
            incoming.write(block)
            return uploads.add_part(organization, upload_id, incoming).id

    def test_parts_become_a_file_in_the_order_that_is_asked(self, files, uploads):
        upload_id = self.begin(uploads)
        last, first = self.part(uploads, upload_id, b"def"), self.part(uploads, upload_id, b"abc")
        done = uploads.complete(
            "acme", upload_id, [first, last], md5="E80B5017098950FC58AAD83C8C14978E"
        )
        assert (done.status, done.file.filename) == ("completed", "t.jsonl")
        assert content(files, done.file) == b"abcdef"
        assert uploads.complete("acme", upload_id, [first, last]) == done
        assert files.folder("acme").names(f"uploads/{upload_id}") == ["upload.json"]

    def test_what_does_not_fit_is_refused_and_can_be_mended(self, uploads):
        upload_id = self.begin(uploads)
        first, last = self.part(uploads, upload_id, b"abc"), self.part(uploads, upload_id, b"def")
        for part_ids, md5, says in (
            ([first], None, "6 bytes; the parts have 3"),
            ([first, "part-" + "0" * 24], None, "no such part"),
            ([first, "../upload.json"], None, "no such part"),
            ([first, first], None, "named twice"),
            ([first, last], "0" * 32, "MD5"),
        ):
            with pytest.raises(InvalidValueError, match=says):
                uploads.complete("acme", upload_id, part_ids, md5)
        assert uploads.complete("acme", upload_id, [first, last]).status == "completed"

    def test_an_upload_has_no_more_bytes_than_were_said(self, files, uploads):
        upload_id = self.begin(uploads)
        for _ in range(4):  # each part twice
            self.part(uploads, upload_id, b"abc")
        with pytest.raises(TooLargeError):
            self.part(uploads, upload_id, b"a")
        with pytest.raises(TooLargeError):
            self.begin(uploads, size=1001)
        assert files.folder("acme").names("uploads/incoming") == []

    def test_what_is_over_takes_nothing_more(self, files, uploads, clock):
        cancelled, expired = self.begin(uploads), self.begin(uploads)
        part = self.part(uploads, expired, b"abcdef")
        assert uploads.cancel("acme", cancelled).status == "cancelled"
        clock.time += 3600
        for upload_id, state in ((cancelled, "cancelled"), (expired, "expired")):
            with pytest.raises(ConflictError, match=state):
                self.part(uploads, upload_id, b"x")
            with pytest.raises(ConflictError, match=state):
                uploads.complete("acme", upload_id, [part])
            with pytest.raises(ConflictError, match=state):
                uploads.cancel("acme", upload_id)
        uploads.sweep("acme")
        assert files.folder("acme").names(f"uploads/{expired}") == ["upload.json"]
        clock.time += 25 * 3600
        uploads.sweep("acme")
        assert files.folder("acme").names("uploads") in ([], ["incoming"])

    def test_another_organisation_finds_no_upload(self, uploads):
        upload_id = self.begin(uploads)
        for call in (
            lambda: self.part(uploads, upload_id, b"x", "other"),
            lambda: uploads.complete("other", upload_id, ["x"]),
            lambda: uploads.cancel("other", upload_id),
        ):
            with pytest.raises(NotFoundError, match=f"^No such Upload object: {upload_id}$"):
                call()
