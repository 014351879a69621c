"""The report says of the data what anybody would count in it, and shows it as the model reads."""

from __future__ import annotations

import html
import json
import re

import pytest
from datasets import Dataset

from finetune_core.config import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.check import CheckRequest, check
from finetune_core.data.report import DataReport, read_report
from finetune_core.data.report_page import facts, markdown, page, verdict
from tests.finetune_core.data.conftest import chat

LIMIT = 64
ROWS = [{"prompt": f"bring {n} desks", "completion": f"item: desk; count: {n}"} for n in range(30)]
HELD = [{"prompt": f"bring {n} chairs", "completion": "item: chair"} for n in range(5)]
LONG = {"prompt": "please " * 100, "completion": "item: none"}


def ignore(event):
    """An observer that does nothing."""


@pytest.fixture
def checked(tmp_path):
    """Checks a dataset as a job would read it."""

    def check_rows(rows=ROWS, held=HELD, measured=None, rules=None, **tokenization):
        files = {}
        for name, lines in (("path", rows), ("validation", held), ("evaluation", measured)):
            if lines:
                file = tmp_path / f"{name}.jsonl"
                file.write_text("".join(json.dumps(line) + "\n" for line in lines))
                files[name if name == "path" else f"{name}_path"] = str(file)
        request = CheckRequest(
            dataset=DatasetConfig(**files, sanitize=rules or {}),
            model=ModelConfig(),
            tokenization=TokenizationConfig(**{"max_length": LIMIT} | tokenization),
            cache=tmp_path / "cache",
        )
        return check(request, ignore)

    return check_rows


def lengths(result, *splits):
    rows = [
        row
        for split in splits
        for row in Dataset.from_file(str(result.ledger.with_name(f"{split}.arrow")))
    ]
    return sorted(len(row["input_ids"]) for row in rows), [row["labels"] for row in rows]


def test_the_numbers_are_those_of_the_rows(checked):
    result = checked([*ROWS, LONG, ROWS[0], {"prompt": "x", "completion": ""}], [*HELD, LONG])
    report = result.report
    assert (report.rows, report.kept, report.changed, report.dropped) == (39, 35, 0, 4)
    assert (report.train_rows, report.validation_rows, report.evaluation_rows) == (30, 5, 0)
    # The long row to learn from is also held out, so that leak takes it before its length does.
    assert {rule: counts["dropped"] for rule, counts in report.rules.items()} == {
        "duplicate": 1,
        "empty": 1,
        "leak": 1,
        "too_long": 1,
    }
    found, labels = lengths(result, "train", "validation")
    tokens = report.tokens
    assert (tokens.total, tokens.longest, tokens.limit) == (sum(found), found[-1], LIMIT)
    assert tokens.trained == sum(label != -100 for row in labels for label in row)
    assert tokens.too_long == 1
    assert (
        found.index(tokens.median)
        <= len(found) // 2
        <= len(found) - found[::-1].index(tokens.median)
    )
    assert tokens.median <= tokens.p90 <= tokens.p99 <= tokens.longest
    assert {tokens.median, tokens.p90, tokens.p99} <= set(found)


def test_the_histogram_has_every_row_in_the_bin_of_its_length(checked):
    result = checked([*ROWS, *[{"prompt": "desk " * n, "completion": "x"} for n in range(1, 30)]])
    found, _ = lengths(result, "train", "validation")
    bins = [0] * len(result.report.tokens.histogram)
    for length in found:
        bins[min(len(bins) - 1, length * len(bins) // found[-1])] += 1
    assert result.report.tokens.histogram == bins


def test_what_a_model_is_measured_on_is_counted_apart(checked):
    without, with_file = checked(), checked(measured=[{"prompt": "a " * 20, "completion": "b"}])
    assert with_file.report.evaluation_rows == 1
    assert with_file.report.rows == without.report.rows + 1
    assert with_file.report.tokens == without.report.tokens
    assert dict(facts(with_file.report))["to evaluate on"] == "1"
    assert "to evaluate on" not in dict(facts(without.report))


def test_clean_data_is_good(checked):
    report = checked().report
    assert (report.verdict, report.reasons) == ("good", [])
    assert verdict(report) == "good"


@pytest.mark.parametrize(("bad", "doubtful"), [(3, False), (4, True)])
def test_many_dropped_rows_are_doubtful_and_few_are_not(checked, bad, doubtful):
    longs = [{"prompt": f"{n} " + "please " * 100, "completion": f"item: {n}"} for n in range(bad)]
    report = checked([*ROWS[: 25 - bad], *longs]).report  # of 30 rows in all
    assert report.rows == 30
    expected = [f"{bad} of 30 rows dropped ({bad} by too_long)"] if doubtful else []
    assert report.reasons == expected
    assert report.verdict == ("doubtful" if doubtful else "good")


def test_what_is_flagged_is_doubtful_unless_it_is_gone(checked):
    secret = {"prompt": "bring AKIAIOSFODNN7EXAMPLE", "completion": "item: key"}
    assert checked([*ROWS, secret]).report.reasons == ["1 rows flagged by secret"]
    gone = {**secret, "prompt": secret["prompt"] + " please" * 100}
    assert checked([*ROWS, gone]).report.reasons == []


def test_warnings_of_the_data_as_a_whole_are_reasons(checked):
    rows = [{"text": f"desk {n}", "label": "yes"} for n in range(30)]
    rows.append({"text": "no desk", "label": "no"})
    report = checked(rows, [{"text": "a chair", "label": "no"}]).report
    assert report.reasons == [
        "of 2 labels, the most frequent stands in 30 rows, the rarest in 1",
    ]
    assert report.verdict == "doubtful"


def test_a_sample_is_a_row_whose_trained_pieces_are_its_answers(checked):
    messages = [{"role": m["role"], "content": m["content"]} for m in chat("a", "b", "c", "d e")]
    report = checked([{"messages": messages}] * 2, [{"messages": messages[:2]}]).report
    (sample,) = report.samples
    assert "".join(piece.text for piece in sample) == (
        "<|bos|><|start|>user\na<|end|>\n<|start|>assistant\nb<|end|>\n"
        "<|start|>user\nc<|end|>\n<|start|>assistant\nd e<|end|>\n"
    )
    assert [piece.text for piece in sample if piece.trained] == ["b<|end|>", "d e<|end|>"]


def test_at_most_five_samples_are_shown_the_first_ones(checked):
    samples = checked().report.samples
    assert len(samples) == 5
    assert [sample[1].text for sample in samples] == [
        f"item: desk; count: {n}<|end|>" for n in range(5)
    ]


def test_the_report_of_plain_texts_is_trained_throughout(checked):
    texts = [{"text": f"bring {n} desks and chairs"} for n in range(8)]
    report = checked(texts, [{"text": "a lamp"}]).report
    assert report.tokens.trained == report.tokens.total
    assert report.samples[0][0].text == texts[0]["text"] + "<|end|>"
    assert report.formats == ["text"]


def test_a_report_is_read_as_it_was_written(checked):
    result = checked()
    path = result.ledger.with_name("report.json")
    assert read_report(path) == result.report
    assert DataReport.model_validate_json(path.read_text()) == result.report


def test_the_page_shows_the_facts_and_marks_what_is_trained(checked):
    rows = [{"prompt": "<b>& 'x'", "completion": "</mark><script>alert(1)</script>"}]
    report = checked(rows).report
    text = page(report, "<rows>.jsonl")
    assert "<script>" not in text
    assert "<title>&lt;rows&gt;.jsonl</title>" in text
    marked = re.findall(r"<mark>(.*?)</mark>", text, re.DOTALL)
    assert [html.unescape(each) for each in marked] == [
        "</mark><script>alert(1)</script><|end|>",
    ]
    for name, value in facts(report):
        assert html.escape(name) in text
        assert html.escape(value) in text
    heights = [float(height) for height in re.findall(r"height:([\d.]+)%", text)]
    assert len(heights) == len(report.tokens.histogram)
    assert max(heights) == 100


def test_the_facts_in_words_are_those_of_the_report(checked):
    report = checked([*ROWS, LONG]).report
    said = dict(facts(report))
    assert said["rows"] == "36 (prompt_completion)"
    assert said["kept, changed, dropped"] == "35, 0, 1"
    assert said["  too_long"] == "1 dropped"
    assert said["to learn from, held out"] == "30, 5"
    assert said["longest"] == f"{report.tokens.longest}; 1 over the limit of 64"
    lines = markdown(report).splitlines()
    assert lines[0] == "# good"
    assert all(f"| {name.strip()} | {value} |" in lines for name, value in said.items())
