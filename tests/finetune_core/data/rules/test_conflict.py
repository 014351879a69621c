"""Conflict: one input, two answers."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import Conversation, assistant, plain_text, user
from finetune_core.data.rules.conflict import conflict
from finetune_core.data.rules.content import fingerprint


@pytest.fixture
def judge():
    """Makes the rule as a function of a number and a conversation."""

    def judge(action="drop"):
        check = conflict(action)
        return lambda number, conversation: check(number, fingerprint(conversation))

    return judge


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_another_answer_to_the_same_input_is_found(turns, judge, action):
    check = judge(action)
    assert check(1, turns("q", "yes")) is None
    detail = "the same input as row 1, but another answer"
    assert check(2, turns(" q ", "no")) == (action, detail, None)
    assert check(3, turns("q", "maybe")) == (action, detail, None)


def test_the_same_answer_or_another_input_is_let_alone(turns, judge):
    check = judge()
    assert check(1, turns("q", "yes")) is None
    assert check(2, turns("q", "yes ")) is None
    assert check(3, turns("another", "no")) is None
    assert check(4, Conversation([user("q")])) is None


def test_other_tools_are_another_input(turns, judge):
    check = judge()
    assert check(1, turns("q", "yes")) is None
    assert check(2, turns("q", "no")._replace(tools='[{"name": "f"}]')) is None


def test_only_the_last_answer_can_contradict(judge):
    check = judge()
    first, others = [user("hi"), assistant("hello")], [user("hi"), assistant("hey")]
    assert check(1, Conversation([*first, user("2 + 2?"), assistant("4")])) is None
    assert check(2, Conversation([*others, user("2 + 2?"), assistant("5")])) is None
    found = check(3, Conversation([*first, user("2 + 2?"), assistant("5")]))
    assert found.detail == "the same input as row 1, but another answer"


@pytest.mark.parametrize("turn", [plain_text, assistant])
def test_texts_that_answer_nothing_contradict_nothing(judge, turn):
    check = judge()
    assert [check(n, Conversation([turn(f"text {n}")])) for n in range(3)] == [None] * 3


def test_preferences_contradict_each_other_in_either_answer(turns, judge):
    check = judge()
    assert check(1, turns("q", "a")._replace(rejected=[assistant("b")])) is None
    assert check(2, turns("q", "a")._replace(rejected=[assistant("b ")])) is None
    swapped = turns("q", "b")._replace(rejected=[assistant("a")])
    assert check(3, swapped).detail == "the same input as row 1, but another answer"
