"""Sanitize: what is kept, what is dropped and why, what is held out, and when it is redone."""

from __future__ import annotations

import json
import random
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
    assert (data.rows, data.kept, data.changed, data.dropped) == (11, 7, 0, 4)
    assert data.dropped_by_rule == {"empty": 3, "duplicate": 1}
    assert data.flagged_by_rule == {"conflict": 1}
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
    assert [entry["original"] for entry in ledger if entry["outcome"] == "kept"] == [None] * 7
    assert [(e["row"], e["rule"], e["detail"]) for e in ledger if e["row"] == 10] == [
        (10, "conflict", "the same input as row 2, but another answer")
    ]


def test_each_kept_row_is_in_one_split_with_its_number_and_its_messages(write, clean):
    data = clean(write(MIXED))
    rows = sorted(table(data.train) + table(data.validation), key=lambda row: row["row"])
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5, 6, 10]
    assert rows[0]["messages"] == [
        {"role": "user", "content": "question 0", "trained": False, "tool_calls": None},
        {"role": "assistant", "content": "answer 0", "trained": True, "tool_calls": None},
    ]


def test_a_chat_without_a_trained_turn_is_dropped(write, clean):
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    chats = [[user], [user, answer | {"weight": 0}], [user, answer], [user, answer, user, answer]]
    data = clean(write([{"messages": turns} for turns in chats]))
    assert data.dropped_by_rule == {"empty": 2}


def test_a_system_prompt_is_put_before_each_row(write, clean):
    data = clean(write(pairs(range(4))), system_prompt="be brief")
    for row in table(data.train) + table(data.validation):
        assert row["messages"][0] == {
            "role": "system",
            "content": "be brief",
            "trained": False,
            "tool_calls": None,
        }
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
    assert entries == [("validation", n) for n in (1, 2, 3)] + [
        ("training", n) for n in range(1, 6)
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
    "fields",
    [
        {"seed": 1},
        {"validation_ratio": 0.2},
        {"system_prompt": "s"},
        {"max_samples": 9},
        {"sanitize": {"email": "flag"}},
    ],
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


CARD, EMAIL = "4111 1111 1111 1111", "ann@mail.org"
KEY = "AKIA" + "IOSFODNN7EXAMPLE"


def entries(data):
    return {(entry["file"], entry["row"]): entry for entry in table(data.ledger)}


def test_what_unicode_changes_is_learned_repaired_and_kept_broken_in_the_ledger(write, clean):
    rows = [*pairs(range(3)), {"prompt": "sch\u00c3\u00b6n?", "completion": "ja\x00"}]
    data = clean(write(rows))
    assert (data.kept, data.changed, data.dropped) == (3, 1, 0)
    entry = entries(data)["training", 4]
    assert (entry["outcome"], entry["rule"]) == ("changed", "unicode")
    assert entry["detail"] == "broken text in 2 messages repaired"
    assert json.loads(entry["original"]) == rows[3]
    learned = {row["row"]: row for row in table(data.train) + table(data.validation)}
    assert [turn["content"] for turn in learned[4]["messages"]] == ["sch\u00f6n?", "ja"]


def test_a_changed_row_goes_on_to_the_rules_that_follow(write, clean):
    rows = [*pairs(range(3)), {"prompt": "question\x00 1", "completion": "answer 1"}]
    data = clean(write(rows))
    assert data.dropped_by_rule == {"duplicate": 1}
    entry = entries(data)["training", 4]
    assert (entry["outcome"], entry["rule"]) == ("dropped", "unicode, duplicate")
    assert entry["detail"] == "broken text in 1 message repaired; the same as row 2"
    assert json.loads(entry["original"]) == rows[3]


def test_half_a_character_is_repaired_or_refused_by_its_row(write, clean):
    path = write([*pairs(range(3)), {"prompt": "\ud83d", "completion": "a"}])
    assert clean(path).changed == 1
    with pytest.raises(DatasetFormatError, match=r"rows\.jsonl, row 4: has half a character"):
        clean(path, sanitize={"unicode": "off"})


@pytest.mark.parametrize(
    ("action", "outcome", "counts"),
    [
        ("off", "kept", (4, 0, 0)),
        ("flag", "kept", (4, 0, 0)),
        ("redact", "changed", (3, 1, 0)),
        ("drop", "dropped", (3, 0, 1)),
    ],
)
def test_each_action_on_personal_data(write, clean, action, outcome, counts):
    rows = [*pairs(range(3)), {"prompt": f"write to {EMAIL}", "completion": "yes"}]
    data = clean(write(rows), sanitize={"email": action})
    assert (data.kept, data.changed, data.dropped) == counts
    assert data.flagged_by_rule == ({"email": 1} if action == "flag" else {})
    assert entries(data)["training", 4]["outcome"] == outcome
    learned = prompts(data.train) + prompts(data.validation)
    assert (f"write to {EMAIL}" in learned) == (action in ("off", "flag"))
    assert ("write to [EMAIL]" in learned) == (action == "redact")


@pytest.mark.parametrize("action", ["flag", "redact", "drop"])
def test_the_ledger_never_holds_personal_data_in_clear(write, clean, action):
    rows = [
        *pairs(range(3)),
        {"prompt": f"pay by {CARD}", "completion": "yes"},
        {"prompt": f"pay by {CARD}", "completion": "yes"},  # dropped as a duplicate
        {"prompt": "p", "completion": "", "card": 4111111111111111, "by": {"m": [EMAIL]}},  # empty
        {"prompt": f"write to ann\x00@mail.org{chr(0)}", "completion": KEY},  # told when repaired
    ]
    rules = {"card": action, "email": action, "secret": action}
    data = clean(write(rows), sanitize=rules)
    ledger = json.dumps(table(data.ledger))
    for text in (CARD, CARD.replace(" ", ""), EMAIL, "ann", KEY):
        assert text not in ledger
    original = json.loads(entries(data)["training", 6]["original"])
    assert original == {"prompt": "p", "completion": "", "card": "[CARD]", "by": {"m": ["[EMAIL]"]}}


def test_secrets_are_flagged_by_default_and_nothing_else_is_looked_for(write, clean):
    rows = [*pairs(range(3)), {"prompt": f"{KEY} {EMAIL} {CARD}", "completion": "a"}]
    data = clean(write(rows))
    assert data.flagged_by_rule == {"secret": 1}
    entry = entries(data)["training", 4]
    assert (entry["outcome"], entry["detail"]) == ("kept", "1 of kind secret")


def test_the_system_prompt_is_no_matter_of_the_rules(write, clean):
    prompt = f"Point people to {EMAIL}."
    data = clean(write(pairs(range(3))), system_prompt=prompt, sanitize={"email": "redact"})
    assert data.changed == 0
    assert set(prompts(data.train)) == {prompt}


def test_training_rows_that_stand_in_the_validation_file_are_dropped_from_training(write, clean):
    train = write([*pairs(range(5)), {"prompt": "question 2 ", "completion": "answer\t2"}])
    held = write(pairs((9, 2, 3)), "held.jsonl")
    data = clean(train, validation_path=str(held))
    assert prompts(data.train) == ["question 0", "question 1", "question 4"]
    assert prompts(data.validation) == ["question 9", "question 2", "question 3"]
    assert data.dropped_by_rule == {"leak": 2, "duplicate": 1}
    assert entries(data)["training", 3]["detail"] == "the same as row 2 of the validation file"
    assert data.rows == data.kept + data.changed + data.dropped == 9


def test_leaks_may_be_left_or_only_noted(write, clean):
    train, held = write(pairs(range(5))), write(pairs((2, 3)), "held.jsonl")
    noted = clean(train, validation_path=str(held), sanitize={"leak": "flag"})
    assert (noted.train_rows, noted.flagged_by_rule) == (5, {"leak": 2})
    left = clean(train, validation_path=str(held), sanitize={"leak": "off"})
    assert (left.train_rows, left.flagged_by_rule) == (5, {})


def test_near_leaks_are_dropped_where_they_are_asked_for(write, clean):
    words = " ".join(f"word{n}" for n in range(200))
    train = write([*pairs(range(3)), {"prompt": words, "completion": "yes"}])
    held = write([{"prompt": f"{words} more", "completion": "yes"}], "held.jsonl")
    assert clean(train, validation_path=str(held)).train_rows == 4
    data = clean(train, validation_path=str(held), sanitize={"near_leak": "drop"})
    assert data.dropped_by_rule == {"near_leak": 1}
    assert prompts(data.train) == ["question 0", "question 1", "question 2"]


def test_labels_that_are_not_balanced_bring_a_warning(write, clean):
    rows = [{"text": f"text {n}", "label": "rare" if n == 7 else "often"} for n in range(40)]
    path = write(rows)
    warning = "of 2 labels, the most frequent stands in 39 rows, the rarest in 1"
    assert clean(path).warnings == [warning]
    assert clean(path, sanitize={"label_imbalance": None}).warnings == []


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_rows_and_rules_the_counts_add_up_and_nothing_is_lost(write, clean, seed):
    random_ = random.Random(seed)
    texts = ["", " ", "a", "b", "a b c d e f", "\x00x", "\u00c3\u00b6", EMAIL, CARD, KEY, "\ud800"]

    def make(number):
        texts_ = random_.choices(texts, k=2)
        return {"prompt": texts_[0], "completion": texts_[1] + random_.choice(["", " z"])}

    rows, held = [*pairs(range(3)), *map(make, range(60))], [*pairs([9]), *map(make, range(9))]
    filters = ("duplicate", "conflict", "near_duplicate", "leak", "near_leak")
    rules = {name: random_.choice(["off", "flag", "drop"]) for name in filters}
    for kind in ("email", "card", "secret"):
        rules[kind] = random_.choice(["off", "flag", "redact", "drop"])
    path = str(write(held, "held.jsonl"))
    data = clean(write(rows), validation_path=path, sanitize=rules)

    ledger = table(data.ledger)
    assert data.rows == data.kept + data.changed + data.dropped == len(rows) + len(held)
    assert sum(data.dropped_by_rule.values()) == data.dropped
    assert data.train_rows + data.validation_rows == data.kept + data.changed
    for outcome in ("kept", "changed", "dropped"):
        assert sum(e["outcome"] == outcome for e in ledger) == getattr(data, outcome)
    assert {(e["file"], e["row"]) for e in ledger} == {
        *(("training", n) for n in range(1, len(rows) + 1)),
        *(("validation", n) for n in range(1, len(held) + 1)),
    }
    split = {(row["file"], row["row"]) for row in table(data.train) + table(data.validation)}
    assert split == {(e["file"], e["row"]) for e in ledger if e["outcome"] != "dropped"}
    for kind, text in (("email", EMAIL), ("card", CARD), ("secret", KEY)):
        assert rules[kind] == "off" or text not in json.dumps(ledger)
    for entry in ledger:
        source = (rows if entry["file"] == "training" else held)[entry["row"] - 1]
        if entry["outcome"] == "kept":
            assert entry["original"] is None
        elif not any(text in json.dumps(source) for text in (EMAIL, CARD, KEY)):
            assert json.loads(entry["original"]) == source
