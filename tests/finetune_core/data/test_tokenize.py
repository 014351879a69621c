"""Tokenize from clean rows to the files that training maps."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from finetune_core import parallel
from finetune_core.config import DatasetConfig, TokenizationConfig
from finetune_core.data import tokenize as tokenize_module
from finetune_core.data.encode import load_tokenizer
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.exceptions import (
    EmptyDatasetError,
    ModelLoadError,
    TemplateError,
)

ROWS = [{"prompt": f"bring {n} desks", "completion": f"item: desk; count: {n}"} for n in range(20)]
LONG = {"prompt": "please " * 100, "completion": "item: none"}
WRITTEN = [*ROWS[:5], LONG, *ROWS[5:], LONG | {"completion": "item: nothing"}]  # rows 6 and 22
HELD_SHORT = [{"prompt": "bring 99", "completion": "none"}]
HELD = [{"prompt": "bring 99 chairs", "completion": "item: chair; count: 99"}]


@pytest.fixture
def request_for(tmp_path, tiny_base):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def make(rows=WRITTEN, held=HELD, measured=None, *, model=tiny_base, rules=None, **config):
        dataset = DatasetConfig(
            path=write("t.jsonl", rows),
            validation_path=write("v.jsonl", held),
            evaluation_path=write("e.jsonl", measured) if measured else None,
            sanitize=rules or {},
        )
        return TokenizeRequest(
            clean=sanitize(SanitizeRequest(dataset=dataset, cache=tmp_path / "data"), ignore),
            tokenizer=Path(model),
            tokenization=TokenizationConfig(**{"max_length": 64} | config),
            sanitize=dataset.sanitize,
            cache=tmp_path / "tokens",
        )

    return make


def ignore(event):
    """An observer that does nothing."""


def ledger(tokens):
    return pq.read_table(tokens.ledger).to_pylist()


def numbers(tokens, **values):
    """Where the rows stand of which the ledger says so."""
    return [
        (line["file"], line["row"])
        for line in ledger(tokens)
        if all(line[name] == value for name, value in values.items())
    ]


def rows_of(path):
    return list(Dataset.from_file(str(path)))


def whole(row):
    """The row as the shipped chat template writes it."""
    return (
        f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n"
        f"<|start|>assistant\n{row['completion']}<|end|>\n"
    )


def lengths(tokenizer, texts):
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def test_rows_become_tokens_whose_answers_are_trained(request_for, tokenizer):
    tokens = tokenize(request_for(), ignore)
    rows = rows_of(tokens.train)
    assert [row["row"] for row in rows] == [*range(1, 6), *range(7, 22)]
    for row, source in zip(rows, ROWS, strict=True):
        assert tokenizer.decode(row["input_ids"]) == whole(source)
        trained = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(trained) == source["completion"] + "<|end|>"
        assert row["length"] == len(row["input_ids"]) == len(row["labels"])


def test_the_counts_are_those_of_the_rows(request_for, tokenizer):
    tokens = tokenize(request_for(), ignore)
    texts = lengths(tokenizer, map(whole, ROWS))
    answers = lengths(tokenizer, [row["completion"] + "<|end|>" for row in ROWS])
    train = tokens.train_split
    assert (train.rows, train.tokens, train.longest) == (20, sum(texts), max(texts))
    assert train.trained_tokens == sum(answers)
    assert tokens.validation_split.rows == 1
    assert tokens.template == "chat"


def test_rows_that_are_too_long_are_left_out_and_counted(request_for):
    tokens = tokenize(request_for(), ignore)
    assert tokens.train_split.too_long == 2
    assert tokens.validation_split.too_long == 0
    assert (tokens.rows, tokens.kept, tokens.changed, tokens.dropped) == (23, 21, 0, 2)
    assert tokens.dropped_by_rule == {"too_long": 2}
    assert numbers(tokens, outcome="dropped") == [("training", 6), ("training", 22)]


def test_a_row_as_long_as_the_limit_is_kept(request_for, tokenizer):
    rows = [
        *ROWS[:10],
        {"prompt": "please bring 7 red desks", "completion": "item: desk; count: 7"},
    ]
    (longest,) = lengths(tokenizer, [whole(rows[-1])])
    for limit, too_long in ((longest, []), (longest - 1, [("training", 11)])):
        tokens = tokenize(request_for(rows, HELD_SHORT, max_length=limit), ignore)
        assert numbers(tokens, outcome="dropped") == too_long


@pytest.mark.parametrize("split", ["train", "validation", "evaluation"])
def test_a_split_of_which_no_row_fits_is_refused(request_for, split, tmp_path):
    place = {"train": "rows", "validation": "held", "evaluation": "measured"}[split]
    with pytest.raises(EmptyDatasetError, match=f"none of the 1 {split} rows") as caught:
        tokenize(request_for(**{place: [LONG]}), ignore)
    file = {"train": "training"}.get(split, split)
    assert f"row 1 of the {file} file" in caught.value.message
    assert "tokens, of 64" in caught.value.message
    assert list((tmp_path / "tokens").iterdir()) == []


def test_the_same_rows_are_tokenized_once(request_for):
    first = tokenize(request_for(), ignore)
    second = tokenize(request_for(), ignore)
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})


def test_the_progress_ends_at_the_number_of_rows(request_for):
    events = []
    tokenize(request_for(), events.append)
    assert [(event["done"], event["total"]) for event in events] == [(22, 23), (23, 23)]


@pytest.fixture
def other_base(tmp_path, tiny_base):
    """The shipped tokenizer in another folder, to be changed."""
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_base / name, folder)
    return folder


def test_the_same_tokenizer_in_another_folder_hits_the_cache(request_for, other_base):
    first = tokenize(request_for(), ignore)
    second = tokenize(request_for(model=other_base), ignore)
    assert second.cached
    assert second.tokenizer_digest == first.tokenizer_digest


def test_another_tokenizer_or_config_gets_a_folder_of_its_own(request_for, other_base):
    template = other_base / "chat_template.jinja"
    first = request_for().folder
    template.write_text(template.read_text().replace("<|start|>", "<|start|> "))
    others = [
        request_for(model=other_base).folder,
        request_for(max_length=65).folder,
        request_for(template="plain").folder,
        request_for(ROWS).folder,
    ]
    assert len({first, *others}) == 5


def test_a_template_that_is_refused_names_the_row(request_for, other_base, tmp_path):
    (other_base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(TemplateError, match="row 1 of the training file: "):
        tokenize(request_for(model=other_base), ignore)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_folder_that_holds_no_tokenizer_is_refused(request_for, tmp_path):
    with pytest.raises(ModelLoadError, match="does not load"):
        tokenize(request_for(model=tmp_path), ignore)


def test_an_edited_tokenizer_is_not_taken_for_the_one_it_was(request_for, other_base):
    template = other_base / "chat_template.jinja"
    tokenize(request_for(model=other_base), ignore)
    template.write_text("now" + template.read_text())
    tokens = tokenize(request_for(model=other_base), ignore)
    text = load_tokenizer(other_base).decode(rows_of(tokens.train)[0]["input_ids"])
    assert text.startswith("now<|bos|>")


def test_a_refused_row_ends_the_job_and_is_named(request_for, tmp_path):
    rows = [*ROWS[:3], {"messages": [{"role": "assistant", "content": "hello"}]}]
    chats = [as_chat(row) if "prompt" in row else row for row in rows]
    with pytest.raises(TemplateError, match=r"row 4 of the training file: .*nothing is asked"):
        tokenize(request_for(chats, [as_chat(HELD[0])], rules={"empty": "off"}), ignore)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_refused_row_of_another_file_is_told_from_that_of_the_training_file(request_for):
    held = {"messages": [{"role": "assistant", "content": "hello"}]}
    request = request_for([as_chat(row) for row in ROWS], [held], rules={"empty": "off"})
    with pytest.raises(TemplateError, match=r"row 1\b.*nothing is asked") as caught:
        tokenize(request, ignore)
    assert "validation" in caught.value.message


def as_chat(row):
    return {
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["completion"]},
        ]
    }


def test_refused_rows_go_to_the_ledger_under_the_rule_template(request_for):
    greeting = {"messages": [{"role": "assistant", "content": "hello"}]}
    chats = [as_chat(ROWS[0]), greeting, *map(as_chat, ROWS[1:4])]
    request = request_for(chats, [as_chat(HELD[0])], rules={"empty": "off"}, refused="drop")
    tokens = tokenize(request, ignore)
    assert tokens.dropped_by_rule == {"template": 1}
    assert tokens.train_split.too_long == 0
    (line,) = [line for line in ledger(tokens) if line["outcome"] == "dropped"]
    assert (line["file"], line["row"]) == ("training", 2)
    # Sanitizing had flagged it; both stand there, in order, and the last one dropped it.
    assert line["rule"] == "roles, template"
    assert line["action"] == "flag, drop"
    first, second = line["detail"].split("; ", 1)
    assert first == "message 1 answers, but nothing is asked"
    assert "to be trained" in second
    assert json.loads(line["original"])["messages"][0]["content"] == "hello"
    assert [row["row"] for row in rows_of(tokens.train)] == [1, 3, 4, 5]


EMPTY = {"prompt": "x", "completion": " "}
BROKEN = {"prompt": "bring a \u0007desk " + "please " * 80, "completion": "item: bell"}
SECRET = "AKIAIOSFODNN7EXAMPLE"  # from AWS's documentation; it opens nothing
TOLD = {"prompt": f"bring {SECRET} " + "please " * 80, "completion": "item: key"}
TOLD_KEPT = {"prompt": f"bring {SECRET}", "completion": "item: keys"}
MIXED = [*ROWS[:3], EMPTY, ROWS[0], BROKEN, TOLD, LONG, TOLD_KEPT]


@pytest.mark.parametrize(
    ("policy", "outcome"), [("drop", "dropped"), ("truncate_left", "changed"), ("split", "dropped")]
)
def test_the_ledger_is_that_of_sanitizing_with_what_tokenizing_did(request_for, policy, outcome):
    request = request_for(MIXED, [*HELD, LONG | {"completion": "x"}], too_long=policy)
    tokens = tokenize(request, ignore)
    before, after = pq.read_table(request.clean.ledger).to_pylist(), ledger(tokens)
    assert len(before) == len(after) == len(MIXED) + 2
    places = [("training", 6), ("training", 7), ("training", 8), ("validation", 2)]
    action = "drop" if outcome == "dropped" else "change"
    for old, new in zip(before, after, strict=True):
        place = (new["file"], new["row"])
        assert place == (old["file"], old["row"])
        if place not in places:
            assert new == old
            continue
        known = [old["rule"]] if old["rule"] else []
        assert new["rule"] == ", ".join([*known, "too_long"])
        actions = [old["action"]] if old["action"] else []
        assert new["action"] == ", ".join([*actions, action])
        assert new["detail"].startswith(f"{old['detail']}; " if known else "")
        assert re.search(r"\d+ tokens, of 64 that it may have", new["detail"])
        assert new["outcome"] == outcome
    rules = {(line["file"], line["row"]): line["rule"] for line in after}
    assert [rules[place] for place in places] == [
        "unicode, too_long", "secret, too_long", "too_long", "too_long",
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["drop", "truncate_left", "truncate_right", "split"])
def test_the_counts_add_up_and_are_those_of_the_ledger(request_for, policy):
    tokens = tokenize(request_for(MIXED, HELD, too_long=policy), ignore)
    lines = ledger(tokens)
    assert tokens.kept + tokens.changed + tokens.dropped == tokens.rows == len(lines)
    for outcome in ("kept", "changed", "dropped"):
        assert getattr(tokens, outcome) == sum(line["outcome"] == outcome for line in lines)
    dropped = [line for line in lines if line["outcome"] == "dropped"]
    assert all(line["action"].split(", ")[-1] == "drop" for line in dropped)
    last = Counter(line["rule"].split(", ")[-1] for line in dropped)
    assert tokens.dropped_by_rule == dict(last)
    left = [line for line in lines if line["outcome"] != "dropped" and line["rule"]]
    for action, counts in (
        ("change", tokens.changed_by_rule),
        ("flag", tokens.flagged_by_rule),
    ):
        found = Counter(
            rule
            for line in left
            for rule, done in zip(line["rule"].split(", "), line["action"].split(", "), strict=True)
            if done == action
        )
        assert counts == dict(found)
    assert all((line["original"] is None) is (line["outcome"] == "kept") for line in lines)
    encoded = {row["row"] for row in rows_of(tokens.train)}
    assert encoded == {
        line["row"] for line in lines if line["file"] == "training" and line["outcome"] != "dropped"
    }


def test_broken_text_hides_nothing_personal_whichever_stage_drops_the_row(request_for):
    broken = SECRET.replace("AK", "AK\u0007")
    rows = [
        *ROWS,
        {"prompt": f"bring {broken}", "completion": " "},  # sanitizing drops it
        {"prompt": f"bring {broken} " + "please " * 80, "completion": "item: x"},  # tokenizing
    ]
    lines = ledger(tokenize(request_for(rows, HELD, rules={"unicode": "flag"}), ignore))
    for line in lines[-2:]:
        assert line["outcome"] == "dropped"
        assert SECRET not in line["original"].replace("\\u0007", "")


def test_an_original_can_be_read_back_but_for_what_is_personal(request_for):
    lines = ledger(tokenize(request_for(MIXED, HELD), ignore))
    originals = {
        line["row"]: json.loads(line["original"])
        for line in lines
        if line["file"] == "training" and line["original"]
    }
    assert originals[4] == EMPTY  # dropped by sanitizing
    assert originals[6] == BROKEN  # changed by sanitizing, so it is the row of the file
    assert [turn["content"] for turn in originals[8]["messages"]] == list(LONG.values())
    assert SECRET not in json.dumps(lines)
    assert originals[7]["messages"][0]["content"].startswith("bring [SECRET] please")


def test_a_plain_text_that_is_split_is_one_row_in_the_ledger(request_for, tokenizer):
    rows = [{"text": " ".join(f"bring {n} desks" for n in range(60))}, {"text": "a desk"}]
    tokens = tokenize(request_for(rows, [{"text": "a chair"}], too_long="split"), ignore)
    pieces = [row for row in rows_of(tokens.train) if row["row"] == 1]
    assert len(pieces) > 1
    assert tokenizer.decode([n for row in pieces for n in row["input_ids"]]) == (
        rows[0]["text"] + "<|end|>"
    )
    assert (tokens.rows, tokens.kept, tokens.changed) == (3, 2, 1)
    assert tokens.train_split.rows == len(pieces) + 1
    assert tokens.changed_by_rule == {"too_long": 1}


def test_an_evaluation_file_is_a_split_of_its_own(request_for, tokenizer):
    other = {"prompt": "bring 5 lamps", "completion": "item: lamp; count: 5"}
    tokens = tokenize(request_for(measured=[other, LONG]), ignore)
    assert (tokens.evaluation_split.rows, tokens.evaluation_split.too_long) == (1, 1)
    (row,) = rows_of(tokens.measured)
    assert tokenizer.decode(row["input_ids"]) == whole(other)
    assert [row["row"] for row in rows_of(tokens.validation)] == [1]
    assert ("evaluation", 2) in numbers(tokens, outcome="dropped")


def test_without_an_evaluation_file_what_is_held_out_is_measured(request_for):
    tokens = tokenize(request_for(), ignore)
    assert tokens.evaluation_split is None
    assert tokens.measured == tokens.validation


@pytest.fixture
def many():
    """Rows of all fates."""
    rows = [
        {"prompt": f"bring {n} desks" + " please" * (n % 97), "completion": f"item: desk; n: {n}"}
        for n in range(400)
    ]
    return [row | {"prompt": ""} if n % 50 == 3 else row for n, row in enumerate(rows)]


@pytest.fixture
def in_processes(monkeypatch):
    """Has even little data be worked on in several processes."""

    def start():
        monkeypatch.setattr(parallel.os, "cpu_count", lambda: 2)
        monkeypatch.setattr(parallel, "LARGE", 0)

    monkeypatch.setattr(tokenize_module, "BATCH", 50)
    return start


def test_several_processes_write_the_same_bytes(request_for, many, in_processes):
    request = request_for(many, MIXED[4:], max_length=64, too_long="truncate_left")
    elsewhere = request.model_copy(update={"cache": request.cache / "again"})
    alone = tokenize(request, ignore)
    in_processes()
    events = []
    together = tokenize(elsewhere, events.append)
    assert [event["done"] for event in events][-2:] == [392, 397]
    assert len(events) == 9, "eight blocks to learn from, one held out"
    assert alone.changed > 100
    for name in ("train", "validation", "report"):
        assert getattr(alone, name).read_bytes() == getattr(together, name).read_bytes()
    assert ledger(alone) == ledger(together)
    same = {"folder", "seconds"}
    assert alone.model_dump(exclude=same) == together.model_dump(exclude=same)


def test_a_row_refused_in_another_process_is_named(request_for, many, in_processes):
    chats = [as_chat(row) for row in many if row["prompt"]]
    chats[250] = {"messages": [{"role": "assistant", "content": "hello"}]}
    request = request_for(chats, [as_chat(HELD[0])], rules={"empty": "off"}, max_length=1024)
    in_processes()
    with pytest.raises(TemplateError, match=r"row 251 of the training file: .*nothing is asked"):
        tokenize(request, ignore)
