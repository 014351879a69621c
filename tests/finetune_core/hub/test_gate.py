"""The gate's judgement: what it takes to be surely better, and what speaks against a version."""

from __future__ import annotations

import math

import pytest

from finetune_core.config.sections import GateConfig
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError
from finetune_core.hub.gate import check_gate, judge, write_gate
from finetune_core.types import Broken, Challenge, EvaluationReport, GateReport


def report(tmp_path, **changes):
    """A report in which loss falls and accuracy rises, each by the middle of its interval."""
    changes = changes or {"loss": (-0.3, -0.2), "accuracy": (0.1, 0.3)}
    middles = {name: (low + high) / 2 for name, (low, high) in changes.items()}
    return EvaluationReport(
        folder=tmp_path,
        rows=10,
        generated_rows=10,
        base=dict.fromkeys(changes, 1.0),
        tuned={name: 1.0 + middle for name, middle in middles.items()},
        change_intervals=changes,
    )


def challenge(tmp_path, loss=(-0.2, -0.3, -0.1), **fields):
    return Challenge(folder=tmp_path, incumbent={"loss": 1.0}, change={"loss": loss}, **fields)


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({}, True),
        ({"metric": "accuracy"}, True),
        ({"min_gain": 0.19}, True),
        ({"min_gain": 0.2}, False),  # just so much is not more
        ({"min_gain": 0.25}, False),
        ({"metric": "accuracy", "min_gain": 0.2}, False),
        ({"direction": "higher"}, False),  # a loss that shall rise
        ({"metric": "accuracy", "direction": "lower"}, False),
        ({"metric": "rougeL"}, False),  # nobody measured it
    ],
)
def test_against_the_base_the_whole_interval_must_be_better(tmp_path, gate, passed):
    verdict = judge(GateConfig(**gate), report(tmp_path), None, None)
    assert verdict.passed is passed
    assert verdict.incumbent is None
    assert (verdict.reasons == "") is passed


@pytest.mark.parametrize(("gain", "passed"), [((0.2, 0.4), True), ((0.0, 0.2), False)])
def test_where_queries_are_executed_that_counts_and_not_the_loss(tmp_path, gain, passed):
    verdict = judge(GateConfig(), report(tmp_path, execution_accuracy=gain), None, None)
    assert verdict.passed is passed
    assert "execution_accuracy" in verdict.checks[0].detail


@pytest.mark.parametrize(
    ("loss", "passed"),
    [
        ((-0.2, -0.3, -0.1), True),
        ((0.0, 0.0, 0.0), False),  # a tie
        ((-0.2, -0.5, 0.0), False),
        ((-0.2, -0.5, 0.1), False),  # perhaps better
        ((0.2, 0.1, 0.3), False),
        ((math.nan, math.nan, math.nan), False),
    ],
)
def test_against_the_champion_a_tie_or_a_perhaps_loses(tmp_path, loss, passed):
    verdict = judge(GateConfig(), report(tmp_path), challenge(tmp_path, loss), 3)
    assert verdict.passed is passed
    assert verdict.incumbent == 3
    assert "version 3" in verdict.checks[0].detail


def failed(tmp_path, gate, **fields):
    verdict = judge(GateConfig(**gate), report(tmp_path), challenge(tmp_path, **fields), 1)
    return [each.name for each in verdict.checks if not each.passed]


def test_what_a_version_forgets_speaks_against_it(tmp_path):
    gate = {"general_path": "x.jsonl", "max_forgetting": 0.1}
    assert failed(tmp_path, gate, general=(2.0, 2.09)) == []
    assert failed(tmp_path, gate, general=(2.0, 1.5)) == []
    assert failed(tmp_path, gate, general=(2.0, 2.2)) == ["forgetting"]
    assert failed(tmp_path, gate, general=(2.0, math.nan)) == ["forgetting"]


def test_one_broken_case_speaks_against_it_and_is_shown(tmp_path):
    gate = {"regression_path": "x.jsonl"}
    assert failed(tmp_path, gate, cases=7) == []
    broken = [Broken(row=4, prompt="2+2", expected="4", answer="5")]
    verdict = judge(
        GateConfig(**gate), report(tmp_path), challenge(tmp_path, cases=7, broken=broken), 1
    )
    assert verdict.reasons == "1 of 7 regression cases are broken: row 4: '5' instead of '4'"


def test_an_adapter_that_does_not_merge_speaks_against_it(tmp_path):
    gate = {"check_merge": True}
    assert failed(tmp_path, gate) == []
    assert failed(tmp_path, gate, merge_fault="it answers otherwise") == ["merge"]


def test_a_champion_that_cannot_be_compared_keeps_its_place(tmp_path):
    assert failed(tmp_path, {}, unlike="it does not load") == ["gain"]


def test_all_that_speaks_against_it_is_in_the_report(tmp_path):
    asked = GateConfig(general_path="x.jsonl", check_merge=True)
    facts = challenge(tmp_path, (0.0, 0.0, 0.0), general=(1.0, 3.0), merge_fault="no")
    verdict = judge(asked, report(tmp_path), facts, 2)
    written = GateReport(folder=tmp_path, verdict=verdict)
    write_gate(written, "orders")
    text = written.markdown.read_text()
    assert "against orders@2: **not passed**" in text
    assert text.count("| no |") == 3


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, DatasetNotFoundError),
        ("", EmptyDatasetError),
        ('{"nothing": 1}\n', DatasetFormatError),
    ],
)
@pytest.mark.parametrize("field", ["general_path", "regression_path"])
def test_a_file_that_cannot_be_measured_by_is_found_before_the_training(
    tmp_path, field, content, error
):
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(error):
        check_gate(GateConfig(**{field: str(file)}))
    check_gate(GateConfig(**{field: str(file), "enabled": False}))


def test_a_file_that_can_be_is_not_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "2+2", "completion": "4"}\n')
    check_gate(GateConfig(regression_path=str(file)))
