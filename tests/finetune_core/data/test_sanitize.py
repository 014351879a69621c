"""Sanitize: what is kept, what is dropped and why, what is held out, and when it is redone."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from itertools import pairwise

import loky
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_core import parallel
from finetune_core.config import DatasetConfig
from finetune_core.data import loading
from finetune_core.data.ledger import LEDGER_SCHEMA
from finetune_core.data.rows import ROWS_SCHEMA, to_conversation
from finetune_core.data.sanitize import SanitizeRequest, sanitize
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
    def clean(path, emit=ignore, **fields):
        dataset = DatasetConfig(path=str(path), **fields)
        return sanitize(SanitizeRequest(dataset=dataset, cache=tmp_path / "cache"), emit)

    return clean


def ignore(event):
    """An observer that does nothing."""


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
    assert data.train_rows + data.validation_rows == 7
    assert (data.evaluation_rows, data.format) == (0, "prompt_completion")
    assert len(table(data.train)) == data.train_rows >= 1
    assert len(table(data.validation)) == data.validation_rows >= 1
    assert table(data.evaluation) == []


def test_the_ledger_tells_what_became_of_each_row(write, clean):
    ledger = table(clean(write(MIXED)).ledger)
    assert [(entry["file"], entry["row"]) for entry in ledger] == [
        ("training", number) for number in range(1, 12)
    ]
    dropped = {entry["row"]: entry for entry in ledger if entry["outcome"] == "dropped"}
    assert {entry["outcome"] for entry in ledger} == {"kept", "dropped"}
    assert {
        row: (each["rule"], each["action"], each["detail"]) for row, each in dropped.items()
    } == {
        7: ("duplicate", "drop", "the same as row 2"),
        8: ("empty", "drop", "the prompt is empty"),
        9: ("empty", "drop", "the answer is empty"),
        11: ("empty", "drop", "the answer is empty"),
    }
    for number, entry in dropped.items():
        assert json.loads(entry["original"]) == MIXED[number - 1]
    assert [entry["original"] for entry in ledger if entry["outcome"] == "kept"] == [None] * 7
    assert [(e["rule"], e["action"], e["detail"]) for e in ledger if e["row"] == 10] == [
        ("conflict", "flag", "the same input as row 2, but another answer")
    ]
    assert {(e["rule"], e["action"], e["detail"]) for e in ledger if e["row"] < 7} == {(None,) * 3}


def test_the_files_have_the_columns_that_they_are_said_to_have(write, clean):
    data = clean(write(MIXED))
    assert pq.read_schema(data.ledger).equals(LEDGER_SCHEMA)
    for split in (data.train, data.validation, data.evaluation):
        assert pq.read_schema(split).equals(ROWS_SCHEMA)


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
    data = clean(train, validation_path=str(held), seed=3, validation_ratio=0.5)
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
        (pairs(range(1)), "1 to learn from, 0 held out"),
        (
            [pairs([1])[0]] * 3,
            "1 to learn from, 0 held out (dropped: 2 duplicate; the first is row 2",
        ),
        (
            [{"prompt": "", "completion": "a"}] * 2,
            "0 to learn from, 0 held out (dropped: 2 empty; ",
        ),
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
    assert entry["detail"] == "broken text in 2 places repaired"
    assert json.loads(entry["original"]) == rows[3]
    learned = {row["row"]: row for row in table(data.train) + table(data.validation)}
    assert [turn["content"] for turn in learned[4]["messages"]] == ["sch\u00f6n?", "ja"]


def test_a_changed_row_goes_on_to_the_rules_that_follow(write, clean):
    rows = [*pairs(range(3)), {"prompt": "question\x00 1", "completion": "answer 1"}]
    data = clean(write(rows))
    assert data.dropped_by_rule == {"duplicate": 1}
    entry = entries(data)["training", 4]
    assert (entry["outcome"], entry["rule"]) == ("dropped", "unicode, duplicate")
    assert entry["action"] == "change, drop"
    assert data.changed_by_rule == {}  # of a dropped row, only what dropped it is counted
    assert entry["detail"] == "broken text in 1 place repaired; the same as row 2"
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


WORDS = " ".join(f"word{n}" for n in range(60))
OUTCOMES = ("kept", "changed", "dropped")
SIGNS = {"rule": ", ", "action": ", ", "detail": "; "}


def findings(entry):
    """What each rule did with a row of the ledger, and why."""
    columns = [(entry[name] or "").split(sign) for name, sign in SIGNS.items()]
    assert len({len(column) for column in columns}) == 1
    return [] if entry["rule"] is None else list(zip(*columns, strict=True))


def check_counts(data):
    """The record counts exactly what stands in the files."""
    ledger, counted = table(data.ledger), Counter()
    assert data.rows == data.kept + data.changed + data.dropped == len(ledger)
    assert sum(data.dropped_by_rule.values()) == data.dropped
    for outcome in OUTCOMES:
        assert sum(e["outcome"] == outcome for e in ledger) == getattr(data, outcome)
    for entry in ledger:
        found = findings(entry)
        *before, last = [action for _, action, _ in found] or ["none"]
        assert (last == "drop") == (entry["outcome"] == "dropped")
        assert "drop" not in before
        assert ("change" in [*before, last]) or entry["outcome"] != "changed"
        assert ("change" not in [*before, last]) or entry["outcome"] != "kept"
        assert (entry["original"] is None) == (entry["outcome"] == "kept")
        if entry["outcome"] == "dropped":
            counted["drop", found[-1][0]] += 1
        else:
            counted.update((action, rule) for rule, action, _ in found)
    for action, counts in (
        ("drop", data.dropped_by_rule),
        ("change", data.changed_by_rule),
        ("flag", data.flagged_by_rule),
    ):
        assert counts == {rule: n for (of, rule), n in counted.items() if of == action}
    splits = {name: table(getattr(data, name)) for name in ("train", "validation", "evaluation")}
    for name, rows in splits.items():
        assert len(rows) == getattr(data, f"{name}_rows")
    places = [(row["file"], row["row"]) for rows in splits.values() for row in rows]
    assert len(places) == len(set(places))
    assert set(places) == {(e["file"], e["row"]) for e in ledger if e["outcome"] != "dropped"}


@pytest.mark.parametrize("seed", range(16))
def test_whatever_the_rows_and_rules_the_counts_add_up_and_nothing_is_lost(
    write, clean, monkeypatch, seed
):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 7)
    random_ = random.Random(seed)
    texts = ["", " ", "a", "b", WORDS, "\x00x", "\u00c3\u00b6", EMAIL, CARD, KEY, "\ud800"]

    def make(number):
        texts_ = random_.choices(texts, k=2)
        return {"prompt": texts_[0], "completion": texts_[1] + random_.choice(["", " z"])}

    sources = {
        "training": [*pairs(range(3)), *map(make, range(60))],
        "validation": [*pairs([9]), *map(make, range(9))],
        "evaluation": [*pairs([10]), *map(make, range(9))],
    }
    filters = ("duplicate", "conflict", "near_duplicate", "leak", "near_leak", "empty", "language")
    rules = {name: random_.choice(["off", "flag", "drop"]) for name in filters}
    for kind in ("email", "card", "secret"):
        rules[kind] = random_.choice(["off", "flag", "redact", "drop"])
    held = {f"{n}_path": str(write(sources[n], n)) for n in ("validation", "evaluation")}
    for name, path in held.items():
        os.rename(path, held[name] + ".jsonl")
        held[name] += ".jsonl"
    data = clean(write(sources["training"]), **held, sanitize={**rules, "languages": ["en"]})

    check_counts(data)
    ledger = table(data.ledger)
    assert {(e["file"], e["row"]) for e in ledger} == {
        (name, n) for name, rows in sources.items() for n in range(1, len(rows) + 1)
    }
    for kind, text in (("email", EMAIL), ("card", CARD), ("secret", KEY)):
        assert rules[kind] == "off" or text not in json.dumps(ledger)
    for entry in ledger:
        source = sources[entry["file"]][entry["row"] - 1]
        known = any(text in json.dumps(source) for text in (EMAIL, CARD, KEY))
        if entry["original"] is not None and not known:
            assert json.loads(entry["original"]) == source


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
GERMAN = "Der Zug in die Stadt geht am Morgen ab, und niemand will zu sp\u00e4t zu ihm kommen."
DROPPED = {
    "empty": {"prompt": "q", "completion": "", "deep": {"a": [None, True, "\ud83d\x00"]}},
    "language": {"prompt": GERMAN, "completion": "ja"},
    "duplicate": {"completion": "answer  1", "prompt": "question 1", "more": "\u00c3\u00b6"},
    "conflict": {"prompt": "question 1", "completion": "other"},
    "leak": {"prompt": "question 50", "completion": "answer 50"},
    "near_duplicate": {"prompt": WORDS + " more", "completion": "yes", "more": {"a": "\u00e9"}},
    "near_leak": {"prompt": WORDS.upper() + " X", "completion": "yes"},
}


@pytest.mark.parametrize("rule", DROPPED)
def test_a_row_that_any_rule_drops_can_be_read_back(write, clean, rule):
    near = {"prompt": WORDS, "completion": "yes"}
    rows = [*pairs(range(3)), *([near] if rule == "near_duplicate" else []), DROPPED[rule]]
    held = write([*pairs([50]), *([near] if rule == "near_leak" else [])], "held.jsonl")
    rules = {rule: "drop", "languages": ["en"]}
    data = clean(write(rows), validation_path=str(held), sanitize=rules)
    assert data.dropped_by_rule == {rule: 1}
    entry = entries(data)["training", len(rows)]
    assert findings(entry)[-1][:2] == (rule, "drop")
    assert json.loads(entry["original"]) == rows[-1]
    check_counts(data)


def test_a_row_with_turns_out_of_order_is_flagged_and_dropped_where_that_is_asked_for(write, clean):
    path = write([{"messages": [{**CHAT[0], "content": f"{n}"}, CHAT[1]]} for n in range(3)])
    with path.open("a") as file:
        file.write(json.dumps({"messages": [CHAT[0], *CHAT]}) + "\n")
    assert clean(path).flagged_by_rule == {"roles": 1}
    data = clean(path, sanitize={"roles": "drop"})
    assert data.dropped_by_rule == {"roles": 1}
    entry = entries(data)["training", 4]
    assert entry["detail"] == "messages 1 and 2 are both of the user"
    assert json.loads(entry["original"]) == {"messages": [CHAT[0], *CHAT]}


def test_a_row_that_is_near_and_flagged_is_kept_with_all_that_was_found(write, clean):
    rows = [
        *pairs(range(3)),
        {"prompt": f"{WORDS} {EMAIL}", "completion": "yes"},
        {"prompt": f"{WORDS}\x00 {EMAIL}", "completion": "yes"},
    ]
    held = write([*pairs([50]), {"prompt": WORDS, "completion": "yes"}], "held.jsonl")
    rules = {"email": "redact", "duplicate": "flag", "near_duplicate": "flag", "near_leak": "flag"}
    data = clean(write(rows), validation_path=str(held), sanitize=rules)
    entry = entries(data)["training", 5]
    assert entry["outcome"] == "changed"
    assert [(rule, action) for rule, action, _ in findings(entry)] == [
        ("unicode", "change"),
        ("email", "change"),
        ("duplicate", "flag"),
        ("near_duplicate", "flag"),
        ("near_leak", "flag"),
    ]
    check_counts(data)


def test_leaks_into_each_held_out_file_are_told_by_its_name(write, clean):
    near = {"prompt": WORDS, "completion": "yes"}
    validation = write([*pairs([7, 8]), near], "v.jsonl")
    evaluation = write([*pairs([9]), {"prompt": WORDS[::-1], "completion": "yes"}], "e.jsonl")
    rows = [*pairs(range(10)), near | {"completion": "no"}]
    rows.append({"prompt": WORDS[::-1] + " more", "completion": "yes"})
    data = clean(
        write(rows),
        validation_path=str(validation),
        evaluation_path=str(evaluation),
        sanitize={"near_leak": "drop"},
    )
    details = {row: each["detail"] for (file, row), each in entries(data).items() if each["rule"]}
    assert details[8] == "the same as row 1 of the validation file"
    assert details[9] == "the same as row 2 of the validation file"
    assert details[10] == "the same as row 1 of the evaluation file"
    assert details[11].endswith("% the same as row 3 of the validation file")
    assert details[12].endswith("% the same as row 2 of the evaluation file")
    assert len(details) == 5
    assert data.dropped_by_rule == {"leak": 3, "near_leak": 2}
    assert prompts(data.train) == [f"question {n}" for n in range(7)]
    assert (data.validation_rows, data.evaluation_rows) == (3, 2)


def test_an_evaluation_file_is_kept_apart_and_a_share_is_held_out_all_the_same(write, clean):
    held = write(pairs(range(500, 530)), "held.jsonl")
    path = write(pairs(range(200)))
    data = clean(path, evaluation_path=str(held))
    assert prompts(data.evaluation) == [f"question {n}" for n in range(500, 530)]
    assert {row["file"] for row in table(data.evaluation)} == {"evaluation"}
    assert prompts(data.validation) == prompts(clean(path).validation)
    assert (data.rows, data.evaluation_rows) == (230, 30)
    assert data.train_rows + data.validation_rows == 200


def test_another_evaluation_file_is_sanitized_anew(write, clean, tmp_path):
    path, held = write(pairs(range(4))), write(pairs([8]), "held.jsonl")
    first = clean(path, evaluation_path=str(held))
    assert clean(path, evaluation_path=str(held)).cached
    assert not clean(path, validation_path=str(held)).cached
    shutil.move(held, tmp_path / "moved.jsonl")
    assert clean(path, evaluation_path=str(tmp_path / "moved.jsonl")).cached
    held = write(pairs([9]), "held.jsonl")
    assert clean(path, evaluation_path=str(held)).digest != first.digest


def held_out(data):
    return set(prompts(data.validation))


@pytest.mark.parametrize("rule", ["duplicate", "near_duplicate"])
def test_rows_that_are_dropped_later_do_not_decide_who_is_held_out(write, clean, rule):
    rows = [
        {"prompt": f"{n} " + " ".join(f"{n}w{k}" for k in range(40)), "completion": f"answer {n}"}
        for n in range(120)
    ]
    more = {"duplicate": "", "near_duplicate": " indeed"}[rule]
    again = [{**row, "completion": row["completion"] + more} for row in rows]
    rules = {"sanitize": {"near_duplicate": "drop"}}
    alone, both = clean(write(rows), **rules), clean(write([*rows, *again]), **rules)
    assert both.dropped_by_rule == {rule: 120}
    assert held_out(both) == held_out(alone)
    backward = clean(write(rows[::-1]), **rules)
    assert held_out(backward) == held_out(alone)


def test_near_rows_that_are_dropped_leave_at_least_one_row_on_each_side(write, clean):
    near = [{"prompt": f"{WORDS} {n}", "completion": "yes"} for n in range(50)]
    rules = {"near_duplicate": "drop", "near_threshold": 0.8}
    data = clean(write([*near, *pairs([1])]), sanitize=rules)
    assert data.dropped_by_rule == {"near_duplicate": 49}
    assert (data.train_rows, data.validation_rows) == (1, 1)
    with pytest.raises(EmptyDatasetError, match="dropped: 49 near_duplicate"):
        clean(write(near), sanitize=rules)


def test_equal_rows_that_are_left_are_never_on_both_sides(write, clean):
    rows = [row for n in range(60) for row in pairs([n]) * 3]
    data = clean(write(rows), validation_ratio=0.3, sanitize={"duplicate": "off"})
    assert data.train_rows + data.validation_rows == 180
    assert set(prompts(data.train)) & held_out(data) == set()


def test_the_system_prompt_does_not_decide_who_is_held_out(write, clean):
    path = write(pairs(range(200)))
    numbers = [
        {row["row"] for row in table(clean(path, system_prompt=prompt).validation)}
        for prompt in (None, "be brief", "be long")
    ]
    assert numbers[0] == numbers[1] == numbers[2]


def test_a_long_system_prompt_makes_no_rows_near(write, clean):
    rows = [
        {"prompt": " ".join(f"{n}w{k}" for k in range(6)), "completion": f"answer {n}"}
        for n in range(20)
    ]
    prompt = " ".join(f"rule{n}" for n in range(400))
    data = clean(write(rows), system_prompt=prompt, sanitize={"near_duplicate": "drop"})
    assert data.dropped_by_rule == {}


def test_a_system_prompt_before_plain_text_is_refused(write, clean, tmp_path):
    path = write([{"text": f"once upon a time {n}"} for n in range(3)])
    with pytest.raises(DatasetFormatError, match=r"rows\.jsonl, row 1: is plain text"):
        clean(path, system_prompt="be brief")
    assert clean(path).format == "text"


def test_plain_texts_are_learned_whole(write, clean):
    rows = [{"text": f"once upon a time {n}"} for n in range(4)]
    data = clean(write([*rows, {"text": " "}, {"text": None}, rows[0], {"text": "a"}]))
    assert data.dropped_by_rule == {"empty": 2, "duplicate": 1}
    assert data.flagged_by_rule == {}
    for row in table(data.train) + table(data.validation):
        (message,) = row["messages"]
        assert (message["role"], message["trained"]) == ("text", True)


def test_preferences_keep_the_rejected_answer(write, clean):
    rows = [{"prompt": f"q {n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(4)]
    faults = [{**rows[0], "rejected": "a 0"}, {**rows[0], "rejected": ""}, rows[1]]
    data = clean(write([*rows, *faults]))
    assert data.format == "preference"
    assert data.dropped_by_rule == {"empty": 2, "duplicate": 1}
    for row in table(data.train) + table(data.validation):
        messages, tools, rejected = to_conversation(row)
        number = row["row"] - 1
        assert [m["content"] for m in messages] == [f"q {number}", f"a {number}"]
        assert ([m["content"] for m in rejected], tools) == ([f"b {number}"], None)


def test_tools_and_calls_arrive_as_json(write, clean):
    tools = [{"name": "weather", "parameters": {"town": {"type": "string"}}}]
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"t": "\u00e9"}}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"rain in {n}?"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "content": "no"},
                CHAT[1],
            ],
            "tools": tools if n else json.dumps(tools),
        }
        for n in range(4)
    ]
    data = clean(write(rows))
    assert (data.kept, data.flagged_by_rule) == (4, {})
    for row in table(data.train) + table(data.validation):
        assert json.loads(row["tools"]) == tools
        assert json.loads(row["messages"][1]["tool_calls"]) == calls


def test_a_format_that_is_named_is_read(write, clean):
    path = write([{"text": f"t {n}", "label": "l"} for n in range(4)])
    assert clean(path).format == "text_label"
    data = clean(path, format="text")
    assert (data.format, data.cached) == ("text", False)
    with pytest.raises(NoTextColumnsError, match="chat rows do not have the columns: text, label"):
        clean(path, format="chat")


def test_every_kind_of_file_gives_the_same_rows(write, clean, tmp_path):
    rows = pairs(range(30))
    write(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = [f"{row['prompt']},{row['completion']}\n" for row in rows]
    (tmp_path / "a.csv").write_text("".join(["prompt,completion\n", *lines]))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.csv").write_text("".join(["prompt,completion\n", *lines[:9]]))
    (tmp_path / "folder" / "2.json").write_text(json.dumps(rows[9:]))
    results = [
        [table(split) for split in (data.train, data.validation)]
        for data in map(
            clean,
            [tmp_path / each for each in ("rows.jsonl", "a.json", "a.parquet", "a.csv", "folder")],
        )
    ]
    assert all(result == results[0] for result in results)


def test_a_label_that_is_missing_in_parquet_is_an_empty_answer(clean, tmp_path):
    table_ = {"text": [f"t {n}" for n in range(6)], "label": [1.0, float("nan"), None, 0, 1, 0]}
    pq.write_table(pa.table(table_), tmp_path / "a.parquet")
    data = clean(tmp_path / "a.parquet")
    assert data.dropped_by_rule == {"empty": 2}
    assert [n for (_, n), each in entries(data).items() if each["outcome"] == "dropped"] == [2, 3]


def test_progress_is_told_and_ends_at_the_last_row(write, clean, monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 4)
    events = []
    clean(write(pairs(range(10))), emit=events.append)
    assert events == [{"type": "progress", "done": done} for done in (4, 8, 10)]


HIDDEN = ["to:\n{}", "\t{}", "\u00e4 {}"]


@pytest.mark.parametrize("lead", HIDDEN)
@pytest.mark.parametrize("action", ["flag", "redact", "drop"])
def test_the_ledger_never_holds_in_clear_what_stands_in_json_within_a_row(
    write, clean, action, lead
):
    value = json.dumps({"name": "send", "arguments": {"text": lead.format(KEY)}})
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]
    ordinary = [
        {"conversations": [turns[0] | {"value": f"{n}"}, turns[1] | {"value": '{"name": "send"}'}]}
        for n in range(3)
    ]
    data = clean(
        write([*ordinary, {"conversations": turns}, {"conversations": turns}]),
        sanitize={"secret": action},
    )
    assert "secret" in {
        *data.flagged_by_rule,
        *data.changed_by_rule,
        *data.dropped_by_rule,
    }
    assert KEY not in json.dumps(table(data.ledger))


def test_half_a_character_in_a_call_is_refused_as_one_in_a_text_is(write, clean):
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"t": "\ud83d"}}}]
    rows = [{"messages": [{**CHAT[0], "content": f"{n}"}, CHAT[1]]} for n in range(3)]
    path = write([*rows, {"messages": [CHAT[0], {**CHAT[1], "tool_calls": calls}]}])
    assert clean(path).changed_by_rule == {"unicode": 1}
    with pytest.raises(DatasetFormatError, match=r"rows\.jsonl, row 4: has half a character"):
        clean(path, sanitize={"unicode": "off"})


def digests(data):
    names = ("train", "validation", "evaluation", "ledger")
    return {name: digest_file(getattr(data, name)) for name in names}


def in_processes(monkeypatch, count):
    """Has even small files be worked on in processes; gives how many each pool then starts."""
    started, pool = [], loky.ProcessPoolExecutor

    def make(jobs, **options):
        started.append(jobs)
        return pool(jobs, **options)

    monkeypatch.setattr(parallel, "LARGE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(loky, "ProcessPoolExecutor", make)
    return started


def test_several_processes_write_the_same_bytes_as_one(write, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 25)
    random_ = random.Random(2)
    texts = ["", "a", WORDS, f"{WORDS} x", "\x00x", "\u00c3\u00b6", EMAIL, KEY, GERMAN, "\ud83d"]
    rows = [
        {"prompt": random_.choice(texts), "completion": random_.choice(texts) + str(n % 50)}
        for n in range(400)
    ]
    held = {"validation_path": str(write(rows[:30], "v.jsonl"))}
    held["evaluation_path"] = str(write(rows[30:60], "e.jsonl"))
    rules = dict.fromkeys(("conflict", "leak", "near_leak", "language"), "flag")
    rules |= {"email": "redact", "secret": "drop", "near_duplicate": "drop", "languages": ["en"]}
    events = [[], []]
    alone = clean(write(rows), emit=events[0].append, **held, sanitize=rules)
    expected = digests(alone)
    shutil.rmtree(tmp_path / "cache")
    started = in_processes(monkeypatch, 3)
    together = clean(write(rows), emit=events[1].append, **held, sanitize=rules)
    assert started == [3, 3, 3]
    assert not together.cached
    assert digests(together) == expected
    assert together.model_copy(update={"seconds": alone.seconds}) == alone
    assert events[0] == events[1]
    check_counts(together)


def test_a_fault_that_a_worker_finds_is_told_as_in_one_process(write, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 10)
    path = write([*pairs(range(55)), {"prompt": "q"}, *pairs(range(60))])
    told = []

    def refuse():
        with pytest.raises(DatasetFormatError, match=r"row 56: has no field 'compl") as caught:
            clean(path)
        told.append((type(caught.value), caught.value.message, caught.value.hint))
        assert list((tmp_path / "cache").iterdir()) == []

    refuse()
    started = in_processes(monkeypatch, 2)
    refuse()
    assert started == [2]
    assert told[0] == told[1]
