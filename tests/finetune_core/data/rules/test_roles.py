"""Roles: turns out of order, and only these."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.rules.roles import roles

CALL = assistant("") | {"tool_calls": "[{}]"}
TOOL = user("3") | {"role": "tool"}
S, U, A = system("s"), user("u"), assistant("a")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [U, A],
        [S, U, A],
        [U, A, U, A],
        [S, U],
        [S],
        [U, CALL, TOOL, A],
        [U, CALL, TOOL, TOOL, CALL, TOOL, A, U, A],
        [U, CALL],
        [plain_text("a")],
    ],
)
def test_turns_in_order_are_let_alone(messages):
    assert roles("drop")(Conversation(messages)) is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([U, S, A], "message 2 is a system turn, which only the first may be"),
        ([S, S, U, A], "message 2 is a system turn, which only the first may be"),
        ([A], "message 1 answers, but nothing is asked"),
        ([S, A], "message 2 answers, but nothing is asked"),
        ([U, U, A], "messages 1 and 2 are both of the user"),
        ([U, A, A], "messages 2 and 3 are both of the assistant"),
        ([TOOL, A], "message 1 is a tool's, but none was called"),
        ([U, TOOL, A], "message 2 is a tool's, but none was called"),
        ([U, A, TOOL], "message 3 is a tool's, but none was called"),
        ([S, TOOL], "message 2 is a tool's, but none was called"),
    ],
)
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_the_first_turn_out_of_order_is_named(messages, reason, action):
    assert roles(action)(Conversation([*messages, S])) == (action, reason, None)
