"""Sanitize: what is kept, what is dropped and why, what is held out, and when it is redone."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import pyarrow.parquet as pq
import pytest

from finetune_core.config import DatasetConfig
from finetune_core.data.sanitize import sanitize
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError, NoTextColumnsError
from finetune_core.storage import digest_file


def pairs(numbers):
    return [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in numbers]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def clean(tmp_path):
    def clean(path, **fields):
        return sanitize(DatasetConfig(path=str(path), **fields), tmp_path / "cache")

    return clean


def table(path):
    return pq.read_table(path).to_pylist()


def prompts(path):
    return [row["messages"][0]["content"] for row in table(path)]


MIXED = [
    *pairs(range(6)),
    {"prompt": "question 1", "completion": "  answer   1\n"},  # 7: as row 2, but for white space
    {"prompt": " ", "completion": "answer"},  # 8
    {"prompt": "question", "completion": ""},  # 9
    {"prompt": "question 1", "completion": "another answer"},  # 10
    {"prompt": "question", "completion": None},  # 11
]


def test_every_row_is_kept_or_dropped_for_a_reason_and_the_counts_add_up(write, clean):
    data = clean(write(MIXED))
    assert (data.rows, data.kept, data.dropped) == (11, 7, 4)
    assert data.dropped_by_rule == {"empty": 3, "duplicate": 1}
    assert (data.train_rows, data.validation_rows) == (6, 1)  # a tenth of 7, rounded
    assert data.format == "prompt_completion"
    assert len(table(data.train)) == 6
    assert len(table(data.validation)) == 1


def test_the_ledger_tells_what_became_of_each_row(write, clean):
    ledger = table(clean(write(MIXED)).ledger)
    assert [(entry["file"], entry["row"]) for entry in ledger] == [
        ("training", number) for number in range(1, 12)
    ]
    dropped = {entry["row"]: entry for entry in ledger if entry["outcome"] == "dropped"}
    assert {entry["outcome"] for entry in ledger} == {"kept", "dropped"}
    assert {row: (entry["rule"], entry["detail"]) for row, entry in dropped.items()} == {
        7: ("duplicate", "the same as row 2"),
        8: ("empty", "the prompt is empty"),
        9: ("empty", "the answer is empty"),
        11: ("empty", "the answer is empty"),
    }
    for number, entry in dropped.items():
        assert json.loads(entry["original"]) == MIXED[number - 1]


def test_each_kept_row_is_in_one_split_with_its_number_and_its_messages(write, clean):
    data = clean(write(MIXED))
    rows = sorted(table(data.train) + table(data.validation), key=lambda row: row["row"])
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6, 10]
    assert rows[0]["messages"] == [
        {"role": "user", "content": "question 0", "trained": False},
        {"role": "assistant", "content": "answer 0", "trained": True},
    ]


def test_a_chat_without_a_trained_turn_is_dropped(write, clean):
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    chats = [[user], [user, answer | {"weight": 0}], [user, answer], [user, answer, user, answer]]
    data = clean(write([{"messages": turns} for turns in chats]))
    assert data.dropped_by_rule == {"empty": 2}


def test_a_system_prompt_is_put_before_each_row(write, clean):
    data = clean(write(pairs(range(4))), system_prompt="be brief")
    for row in table(data.train) + table(data.validation):
        assert row["messages"][0] == {"role": "system", "content": "be brief", "trained": False}
        assert len(row["messages"]) == 3


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.01])
def test_the_asked_share_is_held_out_as_nearly_as_lots_can(write, clean, ratio):
    data = clean(write(pairs(range(2000))), validation_ratio=ratio)
    deviation = (2000 * ratio * (1 - ratio)) ** 0.5
    assert abs(data.validation_rows - 2000 * ratio) < 4 * deviation
    assert data.train_rows + data.validation_rows == 2000


def test_at_least_one_row_is_held_out(write, clean):
    assert clean(write(pairs(range(2))), validation_ratio=0.01).validation_rows == 1


def test_the_seed_decides_which_rows_are_held_out(write, clean):
    path = write(pairs(range(100)))
    first, second = (prompts(clean(path, seed=seed).validation) for seed in (1, 2))
    assert set(first) != set(second)


def test_the_order_of_rows_does_not_decide_which_are_held_out(write, clean):
    forward = clean(write(pairs(range(100))))
    backward = clean(write(pairs(reversed(range(100)))))
    assert forward.folder != backward.folder
    assert set(prompts(forward.validation)) == set(prompts(backward.validation))


def test_a_row_that_is_held_out_stays_so_when_others_come(write, clean):
    held = [set(prompts(clean(write(pairs(range(n)))).validation)) for n in range(100, 121)]
    for before, after in pairwise(held):
        assert before <= after


def test_a_validation_file_is_what_is_held_out(write, clean):
    train, held = write(pairs(range(5))), write(pairs(range(50, 53)), "held.jsonl")
    data = clean(train, validation_path=str(held))
    assert prompts(data.train) == [f"question {n}" for n in range(5)]
    assert prompts(data.validation) == [f"question {n}" for n in range(50, 53)]
    assert (data.rows, data.train_rows, data.validation_rows) == (8, 5, 3)
    entries = [(entry["file"], entry["row"]) for entry in table(data.ledger)]
    assert entries == [("training", n) for n in range(1, 6)] + [
        ("validation", n) for n in (1, 2, 3)
    ]


def test_only_so_many_rows_of_the_training_file_are_read(write, clean):
    held = write(pairs(range(50, 53)), "held.jsonl")
    data = clean(write(pairs(range(9))), validation_path=str(held), max_samples=4)
    assert (data.train_rows, data.validation_rows) == (4, 3)


def test_the_same_input_is_sanitized_once(write, clean):
    path = write(MIXED)
    first = clean(path)
    second = clean(path)
    assert not first.cached
    assert second == first.model_copy(update={"cached": True})
    assert first.source_digest == digest_file(path)


def test_the_same_content_under_another_path_is_not_sanitized_again(write, clean, tmp_path):
    first = clean(write(MIXED))
    (tmp_path / "deep").mkdir()
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "deep" / "other.jsonl")
    second = clean(tmp_path / "deep" / "other.jsonl")
    assert second.cached
    assert second.folder == first.folder


@pytest.mark.parametrize(
    "fields", [{"seed": 1}, {"validation_ratio": 0.2}, {"system_prompt": "s"}, {"max_samples": 9}]
)
def test_another_config_is_sanitized_anew(write, clean, fields):
    path = write(MIXED)
    first, second = clean(path), clean(path, **fields)
    assert not second.cached
    assert second.digest != first.digest


def test_other_content_under_the_same_path_is_sanitized_anew(write, clean):
    first = clean(write(pairs(range(4))))
    second = clean(write(pairs(range(5))))
    assert not second.cached
    assert second.source_digest != first.source_digest


def test_another_validation_file_is_sanitized_anew(write, clean):
    path = write(pairs(range(4)))
    write(pairs([8]), "held.jsonl")
    first = clean(path, validation_path=str(path.with_name("held.jsonl")))
    write(pairs([9]), "held.jsonl")
    assert clean(path, validation_path=str(path.with_name("held.jsonl"))).digest != first.digest


def test_a_row_that_does_not_fit_is_named_and_nothing_is_left_behind(write, clean, tmp_path):
    path = write([*pairs(range(3)), {"prompt": "q"}])
    with pytest.raises(DatasetFormatError, match=r"rows\.jsonl, row 4: has no field 'completion'"):
        clean(path)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_fault_in_the_validation_file_names_that_file(write, clean):
    held = write([{"prompt": "q", "completion": []}], "held.jsonl")
    with pytest.raises(DatasetFormatError, match=r"held\.jsonl, row 1: field 'completion'"):
        clean(write(pairs(range(3))), validation_path=str(held))


def test_a_file_without_text_columns_is_refused(write, clean):
    with pytest.raises(NoTextColumnsError, match="body"):
        clean(write([{"body": "x"}]))


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (pairs(range(1)), "0 to learn from, 1 held out"),
        ([pairs([1])[0]] * 3, "0 to learn from, 1 held out (dropped: 2 duplicate)"),
        ([{"prompt": "", "completion": "a"}] * 2, "0 to learn from, 0 held out (dropped: 2 empty)"),
    ],
)
def test_too_few_usable_rows_are_refused_with_the_counts(write, clean, rows, counts):
    with pytest.raises(EmptyDatasetError) as caught:
        clean(write(rows))
    assert counts in caught.value.message


def test_more_rows_than_a_batch_are_all_written(write, clean):
    data = clean(write(pairs(range(2500))))
    assert data.train_rows + data.validation_rows == 2500
    numbers = [row["row"] for row in table(data.train) + table(data.validation)]
    assert sorted(numbers) == list(range(1, 2501))
