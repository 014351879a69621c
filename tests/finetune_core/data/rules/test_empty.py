"""Empty: what has no prompt or no answer to learn."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.rules.empty import empty

CALL = assistant("") | {"tool_calls": "[{}]"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "no turn of an assistant to learn from"),
        ([user("q")], "no turn of an assistant to learn from"),
        ([user("q"), assistant(" \n")], "the answer is empty"),
        ([user(" "), assistant("a")], "the prompt is empty"),
        ([system("s"), user("\u3000"), assistant("a")], "the prompt is empty"),
        ([assistant("a")], "the prompt is empty"),
        ([system("s"), assistant("a")], "the prompt is empty"),
        ([user("q"), assistant("a"), user("q"), assistant("")], "the answer is empty"),
        ([plain_text("")], "the text is empty"),
        ([plain_text(" \t\n")], "the text is empty"),
    ],
)
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_an_empty_row_is_found(row, reason, action):
    assert empty(action)(Conversation(row)) == (action, reason, None)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("a", "a", "the chosen answer is the rejected one"),
        ("a", " ", "the rejected answer is empty"),
        ("", "b", "the answer is empty"),
        ("", "", "the answer is empty"),
    ],
)
def test_a_preference_that_prefers_nothing_is_found(turns, chosen, rejected, reason):
    row = turns("q", chosen)._replace(rejected=[assistant(rejected)])
    assert empty("drop")(row) == ("drop", reason, None)


@pytest.mark.parametrize(
    "row",
    [
        Conversation([user("q"), assistant("a")]),
        Conversation([user("q"), assistant("0")]),
        Conversation([user("q"), CALL]),
        Conversation([user("q"), assistant("") | {"trained": False}, user("q"), assistant("a")]),
        Conversation([user(""), user("q"), assistant("a")]),
        Conversation([plain_text("a")]),
        Conversation([user("q"), assistant("a")], None, [assistant("b")]),
        Conversation([user("q"), assistant("a")], None, [CALL]),
        Conversation([user("q"), assistant("a")], None, [user("a")]),
        Conversation(
            [user("q"), assistant("a"), user("q"), assistant("b")], None, [assistant("a")]
        ),
    ],
)
def test_a_row_to_learn_from_is_let_alone(row):
    assert empty("drop")(row) is None
