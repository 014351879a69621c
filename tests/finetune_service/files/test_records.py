"""Names from outside become names that lead nowhere."""

from __future__ import annotations

import pytest

from finetune_service.files.records import FileRecord, is_id, plain_filename


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("train.jsonl", "train.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\train.csv", "train.csv"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ('a"\r\nSet-Cookie: x=1.csv', 'a"Set-Cookie: x=1.csv'),
        ("evil\u202elnosj.exe", "evillnosj.exe"),
        ("Übung 1.jsonl", "Übung 1.jsonl"),
        ("\x1b[31mred.csv", "[31mred.csv"),
    ],
)
def test_a_filename_is_made_plain(given, kept):
    assert plain_filename(given) == kept


@pytest.mark.parametrize("name", ["ü" * 300 + ".jsonl", "x." + "y" * 300, "z" * 400])
def test_a_long_filename_fits_a_file_system(name):
    kept = plain_filename(name)
    assert 250 <= len(kept.encode()) <= 255
    assert kept.endswith(".jsonl") == name.endswith(".jsonl")


@pytest.mark.parametrize(
    ("filename", "ending"),
    [
        ("a.jsonl", ".jsonl"),
        ("a.v2.CSV", ".csv"),
        ("a.jsonl.gz", ".jsonl.gz"),
        ("a.json.zst", ".json.zst"),
        ("a", ""),
        ("a.b c", ""),
        ("a.very-long-ending", ""),
    ],
)
def test_the_ending_is_what_a_dataset_is_read_by(filename, ending):
    record = FileRecord(
        id="file-" + "0" * 24, bytes=0, sha256="", created_at=0, expires_at=None,
        filename=filename, purpose="fine-tune", status="uploaded",
    )  # fmt: skip
    assert record.ending == ending


@pytest.mark.parametrize(
    "value",
    ["", "file-", "file-../../x", "file-" + "0" * 23, "file-" + "u" * 24, "part-" + "0" * 24],
)
def test_what_is_no_id_is_never_looked_for(value):
    assert not is_id("file", value)
