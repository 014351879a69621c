"""Conflict: one input, two answers."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import assistant, user
from finetune_core.data.rules.conflict import conflict


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_another_answer_to_the_same_input_is_found(turns, action):
    check = conflict(action)
    assert check(1, turns("q", "yes")) is None
    detail = "the same input as row 1, but another answer"
    assert check(2, turns(" q ", "no")) == (action, detail, None)
    assert check(3, turns("q", "maybe")) == (action, detail, None)


def test_the_same_answer_or_another_input_is_let_alone(turns):
    check = conflict("drop")
    assert check(1, turns("q", "yes")) is None
    assert check(2, turns("q", "yes ")) is None
    assert check(3, turns("another", "no")) is None
    assert check(4, [user("q")]) is None


def test_only_the_last_answer_can_contradict():
    check = conflict("drop")
    assert check(1, [user("hi"), assistant("hello"), user("2 + 2?"), assistant("4")]) is None
    assert check(2, [user("hi"), assistant("hey"), user("2 + 2?"), assistant("5")]) is None
    found = check(3, [user("hi"), assistant("hello"), user("2 + 2?"), assistant("5")])
    assert found.detail == "the same input as row 1, but another answer"
