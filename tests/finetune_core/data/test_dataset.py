"""Dataset: rows in, rows out."""

from __future__ import annotations

import pandas as pd
import pytest

from finetune_core.data.dataset import Dataset
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError

ROWS = [{"text": f"line {n}\nof two, ü", "label": str(n)} for n in range(10)]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
def test_what_is_saved_is_loaded(tmp_path, ending):
    path = tmp_path / f"reviews.{ending}"
    Dataset("any", ROWS).save(path)
    loaded = Dataset.load(path)
    assert loaded.name == "reviews"
    assert list(loaded) == ROWS


def test_rows_come_from_a_list_a_frame_or_a_file(tmp_path):
    Dataset("any", ROWS).save(tmp_path / "a.csv")
    assert Dataset("a", pd.DataFrame(ROWS)).rows == ROWS
    assert Dataset("a", path=tmp_path / "a.csv").rows == ROWS
    assert len(Dataset("a")) == 0


def test_a_split_has_each_row_once_in_the_asked_shares():
    train, validation = Dataset("a", ROWS).split()
    assert (len(train), len(validation)) == (8, 2)
    assert sorted([*train, *validation], key=lambda row: row["label"]) == ROWS
    assert Dataset("a", ROWS).split()[1].rows == validation.rows
    assert (train.name, validation.name) == ("a-train", "a-validation")


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 8])
def test_a_share_of_nothing_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match="train_ratio"):
        Dataset("a", ROWS).split(ratio)


def test_a_sample_has_so_many_different_rows():
    labels = [row["label"] for row in Dataset("a", ROWS).sample(4)]
    assert len(set(labels)) == 4
    assert len(Dataset("a", ROWS).sample(99)) == 10


def test_a_sample_is_not_the_head_and_leaves_its_source_alone():
    dataset = Dataset("a", ROWS)
    dataset.sample(4).rows[0]["label"] = "changed"
    assert dataset.rows == ROWS


def test_rows_with_other_columns_keep_them_in_csv(tmp_path):
    Dataset("a", [{"a": "1"}, {"b": "2"}]).save(tmp_path / "a.csv")
    assert Dataset.load(tmp_path / "a.csv").rows == [{"a": "1", "b": ""}, {"a": "", "b": "2"}]


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    with pytest.raises(DatasetFormatError, match="xlsx"):
        Dataset("a", ROWS).save(tmp_path / "a.xlsx")
    with pytest.raises(EmptyDatasetError):
        Dataset("a").save(tmp_path / "a.csv")
    with pytest.raises(DatasetNotFoundError):
        Dataset.load(tmp_path / "nope.csv")
