"""Which rows came and went, whatever their order and wherever they stand."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from finetune_core.config.sections import DatasetConfig
from finetune_core.data.changes import Changes, find_changes, write_digests
from finetune_core.data.sanitize import SanitizeRequest, sanitize


def row(number, answer="Antwort"):
    return {"prompt": f"Frage {number} nach dem Wetter", "completion": f"{answer} {number}."}


@pytest.fixture
def clean(tmp_path):
    """Sanitizes rows."""

    def clean(rows):
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        config = DatasetConfig(path=str(file))
        return sanitize(SanitizeRequest(dataset=config, cache=tmp_path / "cache"), print)

    return clean


@pytest.fixture
def compare(tmp_path, clean):
    def compare(before, after):
        write_digests(clean(before), tmp_path / "before.parquet")
        ledger = tmp_path / "changes.parquet"
        changes = find_changes(tmp_path / "before.parquet", clean(after), ledger)
        return changes, pq.read_table(ledger).to_pylist()

    return compare


def test_the_same_rows_in_another_order_have_not_changed(compare):
    changes, ledger = compare(map(row, range(40)), map(row, reversed(range(40))))
    assert changes == Changes(added=0, removed=0, kept=40)
    assert changes.drift == 0
    assert ledger == []


def test_rows_that_came_and_went_are_told_with_where_they_stand(compare):
    changes, ledger = compare(map(row, range(40)), map(row, [*range(3, 40), 100, 101]))
    assert changes == Changes(added=2, removed=3, kept=37)
    assert changes.drift == 5 / 42
    told = sorted((each["change"], each["file"], each["row"]) for each in ledger)
    assert told == [
        ("added", "training", 38),
        ("added", "training", 39),
        ("removed", "training", 1),
        ("removed", "training", 2),
        ("removed", "training", 3),
    ]


def test_an_answer_that_was_mended_makes_another_row(compare):
    mended = [*map(row, range(1, 40)), row(0, "Doch keine Antwort")]
    changes, _ = compare(map(row, range(40)), mended)
    assert changes == Changes(added=1, removed=1, kept=39)


def test_no_text_is_kept_of_the_rows(tmp_path, clean):
    write_digests(clean(map(row, range(40))), tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    assert b"Wetter" not in content
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column_names == ["file", "row", "digest"]
    assert len(set(table["digest"].to_pylist())) == 40
