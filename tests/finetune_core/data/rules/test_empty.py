"""Empty: what has no prompt or no answer to learn."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import assistant, user
from finetune_core.data.rules.empty import empty


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("q")], "no turn of an assistant to learn from"),
        ([user("q"), assistant(" \n")], "the answer is empty"),
        ([user(" "), assistant("a")], "the prompt is empty"),
        ([assistant("a")], "the prompt is empty"),
        ([user("q"), assistant("a"), user("q"), assistant("")], "the answer is empty"),
    ],
)
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_an_empty_row_is_found(messages, reason, action):
    assert empty(action)(1, messages) == (action, reason, None)


@pytest.mark.parametrize(
    "messages",
    [
        [user("q"), assistant("a")],
        [user("q"), assistant("0")],
        [user("q"), assistant("") | {"tool_calls": "[{}]"}],
        [user("q"), assistant("") | {"trained": False}, user("q"), assistant("a")],
        [user(""), user("q"), assistant("a")],
    ],
)
def test_a_row_to_learn_from_is_let_alone(messages):
    assert empty("drop")(1, messages) is None
