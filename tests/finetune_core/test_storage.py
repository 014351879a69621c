"""Folders are whole or not there."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_core.exceptions import DamagedFolderError
from finetune_core.storage import (
    digest_file,
    digest_folder,
    digest_json,
    finished,
    is_whole,
    new_folder,
    once,
    read_record,
    verify,
    write_json,
)
from finetune_core.types import ChosenCheckpoint


def record(folder, step=1):
    return ChosenCheckpoint(folder=folder, digest="d", step=step, valid_loss=0.5, reason="r")


@pytest.fixture
def folder(tmp_path):
    final = tmp_path / "final"
    with new_folder(final) as temporary:
        (temporary / "a.txt").write_bytes(b"one")
        (temporary / "deep").mkdir()
        (temporary / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return final


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_files_digest_is_its_sha256(tmp_path, size):
    content = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert digest_file(tmp_path / "file") == hashlib.sha256(content[:size]).hexdigest()


def test_a_values_digest_does_not_depend_on_the_order_of_keys():
    expected = hashlib.sha256('{"a":[1,"ä"],"b":null}'.encode()).hexdigest()
    assert digest_json({"b": None, "a": [1, "ä"]}) == expected


def test_a_folders_digest_tells_names_and_contents(tmp_path):
    digests = set()
    for number, (name, content) in enumerate([("a", "1"), ("a", "2"), ("b", "1")]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_text(content)
        digests.add(digest_folder(tmp_path / str(number)))
    assert len(digests) == 3


def test_a_finished_folder_is_whole_with_the_digest_of_each_file(folder, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert json.loads((folder / "manifest.json").read_text())["files"] == {
        "a.txt": hashlib.sha256(b"one").hexdigest(),
        "deep/b.bin": hashlib.sha256(bytes(range(256))).hexdigest(),
    }
    verify(folder)


def test_a_block_that_fails_leaves_no_trace(tmp_path):
    def write():
        with new_folder(tmp_path / "final") as temporary:
            (temporary / "a.txt").write_text("half")
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_seen_before_it_is_finished(tmp_path):
    with new_folder(tmp_path / "final"):
        assert not (tmp_path / "final").exists()
    assert is_whole(tmp_path / "final")


def test_a_flipped_bit_is_found(folder):
    content = bytearray((folder / "deep" / "b.bin").read_bytes())
    content[100] ^= 1
    (folder / "deep" / "b.bin").write_bytes(content)
    with pytest.raises(DamagedFolderError, match=r"deep/b\.bin has changed"):
        verify(folder)


def test_a_missing_file_is_found(folder):
    (folder / "a.txt").unlink()
    with pytest.raises(DamagedFolderError, match=r"a\.txt is missing"):
        verify(folder)


@pytest.mark.parametrize("manifest", [None, "", '{"files": {'])
def test_a_missing_or_broken_manifest_is_damage(folder, manifest):
    (folder / "manifest.json").unlink()
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    with pytest.raises(DamagedFolderError, match=r"manifest\.json"):
        verify(folder)


def test_a_stage_is_built_once(tmp_path):
    def build(temporary):
        (temporary / "out").write_text("x")
        return record(temporary)

    def build_again(temporary):
        raise AssertionError("built a second time")

    first = once(tmp_path / "stage", ChosenCheckpoint, build)
    second = once(tmp_path / "stage", ChosenCheckpoint, build_again)
    assert first == record(tmp_path / "stage")
    assert second == first.model_copy(update={"cached": True})
    assert (second.folder / "out").read_text() == "x"


def test_a_stage_that_failed_is_built_anew(tmp_path):
    def fail(temporary):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        once(tmp_path / "stage", ChosenCheckpoint, fail)
    assert finished(tmp_path / "stage", ChosenCheckpoint) is None
    assert not once(tmp_path / "stage", ChosenCheckpoint, record).cached


def test_a_moved_stage_says_where_it_lies_now(tmp_path):
    once(tmp_path / "here", ChosenCheckpoint, record)
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_record(tmp_path / "there", ChosenCheckpoint).folder == tmp_path / "there"


def test_a_broken_record_is_damage(tmp_path):
    once(tmp_path / "stage", ChosenCheckpoint, record)
    (tmp_path / "stage" / "record.json").write_text("{")
    with pytest.raises(DamagedFolderError, match=r"record\.json"):
        finished(tmp_path / "stage", ChosenCheckpoint)


def test_two_writers_of_one_folder_both_end_well(tmp_path):
    both = threading.Barrier(2, timeout=30)

    def build(temporary):
        (temporary / "out").write_text("x")
        both.wait()  # both are building before either can finish
        return record(temporary)

    def run(_):
        return once(tmp_path / "stage", ChosenCheckpoint, build)

    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(run, range(2)))
    assert records == [record(tmp_path / "stage")] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]
    verify(tmp_path / "stage")


def test_a_foreign_folder_under_the_final_name_is_not_taken_for_the_own(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "foreign").touch()
    with pytest.raises(OSError, match="final"), new_folder(tmp_path / "final"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": 1, ("no", "key"): 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_json_that_cannot_be_written_leaves_nothing_else(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {("no", "key"): 2})
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_json_or_the_new(tmp_path):
    values = [[0] * 50_000, [1] * 20_000]
    write_json(tmp_path / "a.json", values[0])

    def write():
        for number in range(20):
            write_json(tmp_path / "a.json", values[number % 2])

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        reads = 0
        while reads < 5 or not writing.done():
            assert json.loads((tmp_path / "a.json").read_text()) in values
            reads += 1
        writing.result()
