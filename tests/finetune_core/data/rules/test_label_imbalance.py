"""Label imbalance: warned of where answers are labels, and only there."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import assistant, user
from finetune_core.data.rules.label_imbalance import LabelImbalance, label_of


@pytest.fixture
def warnings(turns):
    def warnings(counts, ratio=10.0):
        labels = LabelImbalance(ratio)
        for label, count in counts.items():
            for number in range(count):
                labels.add(label_of(turns(f"text {number}", label).messages))
        return labels.warnings()

    return warnings


def test_a_rare_label_is_warned_of(warnings):
    assert warnings({"spam": 1200, "ham": 40, "eggs": 300}) == [
        "of 3 labels, the most frequent stands in 1,200 rows, the rarest in 40"
    ]


def test_a_single_label_is_warned_of(warnings):
    assert warnings({"yes": 20}) == ["all 20 rows of the training file have the same label"]


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"spam": 99, "ham": 10},  # not yet ten times
        {"yes": 4},  # too few to tell
        {"often": 30, **{f"answer {n}": 1 for n in range(20)}},  # answers, not labels
        {f"answer {n}": 1 + n for n in range(60)},  # too many labels
        {"often": 30, "a text so long that nobody would call it a label": 1},
        {"a text so long that nobody would call it a label": 1, "often": 30},
        {"often": 30, "two\nlines": 1},
    ],
)
def test_balanced_labels_and_what_are_no_labels_are_let_alone(warnings, counts):
    assert warnings(counts) == []


def test_the_ratio_decides_and_without_one_nothing_is_said(warnings):
    assert len(warnings({"a": 30, "b": 10}, ratio=3.0)) == 1
    assert warnings({"a": 30, "b": 1}, ratio=None) == []


@pytest.mark.parametrize(
    ("messages", "label"),
    [
        ([user("q"), assistant(" yes\n")], "yes"),
        ([user("q"), assistant("no"), user("q"), assistant("yes")], "yes"),
        ([user("q"), assistant("no"), user("q"), assistant("yes") | {"trained": False}], "no"),
        ([user("q"), assistant("x" * 40)], "x" * 40),
        ([user("q"), assistant("x" * 41)], None),
        ([user("q"), assistant("two\nlines")], None),
        ([user("q")], None),
        ([], None),
    ],
)
def test_a_label_is_a_short_last_answer(messages, label):
    assert label_of(messages) == label
