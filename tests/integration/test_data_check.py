"""finetune-cli data check: what a person and a machine are told about a file."""

from __future__ import annotations

import json
from html import escape

import pyarrow.parquet as pq
import pytest

from tests.integration.command import cli


def check(*arguments):
    return cli("data", "check", *arguments)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Ten rows, of which one is empty, one stands twice, and two are far too long."""
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(6)]
    rows += [{"prompt": "none", "completion": " "}, rows[0]]
    rows += [{"prompt": f"long {n}", "completion": "word " * 500} for n in range(2)]
    path = tmp_path_factory.mktemp("check") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def page(file):
    return file.with_suffix(".html")


@pytest.fixture(scope="module")
def report(file, page):
    done = check(file, "--max-length", 64, "--html", page, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_the_counts_add_up_to_the_rows_of_the_file(report):
    assert report["rows"] == 10 == report["kept"] + report["changed"] + report["dropped"]
    assert {rule: counts["dropped"] for rule, counts in report["rules"].items()} == {
        "duplicate": 1,
        "empty": 1,
        "too_long": 2,
    }
    assert report["tokens"]["too_long"] == 2
    assert report["train_rows"] + report["validation_rows"] == 6
    assert sum(report["tokens"]["histogram"]) == 6
    assert report["formats"] == ["prompt_completion"]


def test_what_is_doubtful_is_said_with_its_numbers(report):
    assert report["verdict"] == "doubtful"
    (reason,) = report["reasons"]
    assert reason.startswith("4 of 10 rows dropped (")
    assert set(reason.partition("(")[2].rstrip(")").split(", ")) == {
        "1 by duplicate",
        "1 by empty",
        "2 by too_long",
    }


def test_the_ledger_that_is_named_tells_every_rows_fate(report):
    lines = pq.read_table(report["ledger"]).to_pylist()
    assert [line["row"] for line in lines] == list(range(1, 11))
    dropped = {line["row"]: line["rule"] for line in lines if line["outcome"] == "dropped"}
    assert dropped == {7: "empty", 8: "duplicate", 9: "too_long", 10: "too_long"}
    long = json.loads(lines[8]["original"])
    assert [turn["content"] for turn in long["messages"]] == ["long 0", "word " * 500]


def test_rows_are_shown_as_the_model_reads_them(report):
    for sample in report["samples"]:
        trained = [piece["text"] for piece in sample if piece["trained"]]
        assert len(trained) == 1
        assert trained[0].startswith("answer ")
        assert trained[0].endswith("<|end|>")


def test_the_page_marks_what_is_trained(report, page):
    text = page.read_text()
    for sample in report["samples"]:
        assert f"<mark>{escape(sample[1]['text'])}</mark>" in text


def test_a_person_sees_a_verdict_last(orders):
    done = check(orders)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "verdict  good"
    assert "1,200 (prompt_completion)" in done.stdout


def test_a_person_sees_what_was_left_out_and_where_it_is_told(file):
    done = check(file, "--max-length", 64)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "kept, changed, dropped 6, 0, 4" in lines
    assert "too_long 2 dropped" in lines
    assert "ledger.parquet" in "".join(lines).replace(" ", "")  # a long path is folded
    assert lines[-1].startswith("verdict doubtful: 4 of 10 rows dropped")


def test_plain_texts_can_be_checked(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"bring {n} desks"}) + "\n" for n in range(3)))
    done = check(path, "--json")
    assert done.returncode == 0, done.stderr
    tokens = json.loads(done.stdout)["tokens"]
    assert tokens["trained"] == tokens["total"] > 0


def test_a_file_that_cannot_teach_is_refused(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_text("prompt,completion\n")
    done = check(path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "has no rows" in done.stderr
