"""Near duplicate: alike by more than the threshold, estimated by MinHash."""

from __future__ import annotations

import pytest

from finetune_core.data.rules.near_duplicate import near_duplicate

WORDS = [f"word{n}" for n in range(200)]


def text(*changed):
    return " ".join("another" if n in changed else word for n, word in enumerate(WORDS))


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_one_word_of_two_hundred_makes_no_other_row(turns, action):
    check = near_duplicate(action, 0.9)
    assert check(3, turns(text())) is None
    verdict = check(5, turns(text(100)))  # 5 of 198 runs are others: 193 / 203 = 95 %
    assert verdict.action == action
    share, _, rest = verdict.detail.partition("%")
    assert 90 <= int(share) <= 99
    assert rest == " the same as row 3"


def test_case_and_white_space_do_not_count(turns):
    check = near_duplicate("drop", 1.0)
    assert check(1, turns(text())) is None
    assert check(2, turns(text().upper().replace(" ", "\n"))).detail == "100% the same as row 1"


def test_the_threshold_decides(turns):
    changed = turns(text(20, 60, 100, 140, 180))  # 25 of 198 runs: 173 / 223 = 78 %
    for threshold, found in [(0.6, True), (0.95, False)]:
        check = near_duplicate("drop", threshold)
        assert check(1, turns(text())) is None
        assert (check(2, changed) is not None) == found


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("if a < b:", "if a > b:"),
        ("\u4eca\u5929\u5929\u6c14\u5f88\u597d", "\u660e\u5929\u5929\u6c14\u4e0d\u597d"),
        ("a", "b"),
        ("", "a"),
    ],
)
def test_short_rows_that_differ_are_let_alone(turns, one, two):
    check = near_duplicate("drop", 0.9)
    assert check(1, turns(one, "")) is None
    assert check(2, turns(two, "")) is None


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_one_text_is_found_among_many_at_every_threshold(turns, threshold):
    check = near_duplicate("drop", threshold)
    texts = [" ".join(f"{word}{n}" for word in WORDS) for n in range(50)]
    assert [check(n, turns(each)) for n, each in enumerate(texts, start=1)] == [None] * 50
    assert check(51, turns(texts[30])).detail == "100% the same as row 31"
