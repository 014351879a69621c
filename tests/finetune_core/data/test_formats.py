"""Each shape of rows is found by its columns and becomes messages."""

from __future__ import annotations

import json

import pytest

from finetune_core.data.formats import RowFault, find_format
from finetune_core.exceptions import NoTextColumnsError


def said(row, input_field=None, output_field=None):
    """The row's format and its turns: role, text and whether it is trained."""
    found = find_format(row, input_field, output_field)
    return found.name, [(m["role"], m["content"], m["trained"]) for m in found.to_messages(row)]


PAIR = [("user", "q", False), ("assistant", "a", True)]


@pytest.mark.parametrize(
    ("row", "name", "turns"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt_completion", PAIR),
        ({"text": "q", "label": "a"}, "text_label", PAIR),
        ({"question": "q", "answer": "a", "id": 5}, "question_answer", PAIR),
        ({"instruction": "q", "output": "a"}, "alpaca", PAIR),
        ({"instruction": "q", "response": "a", "input": ""}, "alpaca", PAIR),
        (
            {
                "system": "s",
                "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
            },
            "sharegpt",
            [("system", "s", False), *PAIR],
        ),
        (
            {"instruction": "do", "input": "this", "output": "a"},
            "alpaca",
            [("user", "do\n\nthis", False), ("assistant", "a", True)],
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "chat",
            PAIR,
        ),
    ],
)
def test_a_format_is_found_by_its_columns(row, name, turns):
    assert said(row) == (name, turns)


def test_a_chat_keeps_every_turn_and_trains_the_assistants_but_those_of_weight_0():
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "tool", "content": "t"},
        {"role": "assistant", "content": "b", "weight": 1},
        {"role": "assistant", "content": "c", "weight": None},
        {"role": "user", "content": "d", "weight": 1},
    ]
    _, messages = said({"messages": turns})
    assert [(role, content) for role, content, _ in messages] == [
        (turn["role"], turn["content"]) for turn in turns
    ]
    assert [content for _, content, trained in messages if trained] == ["b", "c"]


def test_named_columns_win_over_found_ones():
    row = {"prompt": "x", "completion": "y", "in": "q", "out": "a"}
    assert said(row, "in", "out") == ("two_columns", PAIR)


def test_the_message_names_the_columns_found_and_needed():
    with pytest.raises(NoTextColumnsError) as caught:
        find_format(["body", "title"], None, None)
    assert "body, title" in caught.value.message
    for needed in ("messages", "prompt, completion", "text, label", "question, answer"):
        assert needed in caught.value.hint


def test_the_message_names_the_missing_column_and_those_that_are_there():
    with pytest.raises(NoTextColumnsError) as caught:
        find_format(["body", "title"], "body", "label")
    assert caught.value.message == "missing column 'label'"
    assert "body, title" in caught.value.hint


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (0.5, "0.5"), (True, "True"), (None, "")])
def test_a_label_that_is_no_text_is_written_out(value, text):
    _, messages = said({"text": "q", "label": value})
    assert messages[1] == ("assistant", text, True)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": ["q"], "completion": "a"}, "field 'prompt' should be text, found list"),
        ({"prompt": "q", "completion": {}}, "field 'completion' should be text, found dict"),
        ({"messages": "q"}, "field 'messages' should be a list, found str"),
        ({"messages": None}, "field 'messages' should be a list, found NoneType"),
        ({"messages": ["q"]}, "message 1 needs a role"),
        ({"messages": [{"role": "bot", "content": "q"}]}, "message 1 needs a role"),
        ({"messages": [{"role": "user", "text": "q"}]}, "has no field 'content'"),
    ],
)
def test_a_row_that_does_not_fit_says_which_field(row, problem):
    with pytest.raises(RowFault, match=problem):
        said(row)


CALL = {"name": "weather", "arguments": {"town": "Porto"}}
AS_CHATS_HAVE_IT = [{"type": "function", "function": CALL}]


def test_sharegpt_calls_and_their_answers_are_calls_and_tool_turns():
    row = {
        "conversations": [
            {"from": "human", "value": "Rain in Porto?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "yes"},
            {"from": "gpt", "value": "It rains."},
        ],
        "tools": json.dumps([{"name": "weather"}]),
    }
    found = find_format(row, None, None)
    messages = found.to_messages(row)
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert [m["trained"] for m in messages] == [False, True, False, True]
    assert json.loads(messages[1]["tool_calls"]) == AS_CHATS_HAVE_IT
    assert [m["content"] for m in messages] == ["Rain in Porto?", "", "yes", "It rains."]
    assert json.loads(found.tools(row)) == [{"name": "weather"}]


def test_a_chats_calls_are_kept_beside_its_text():
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": AS_CHATS_HAVE_IT}
    row = {"messages": [{"role": "user", "content": "Rain?"}, turn]}
    (_, answer) = find_format(row, None, None).to_messages(row)
    assert answer["content"] == "Let me see."
    assert json.loads(answer["tool_calls"]) == AS_CHATS_HAVE_IT


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"conversations": [{"from": "robot", "value": "a"}]}, "turn 1 needs a 'from'"),
        ({"conversations": "hello"}, "should be a list"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "is not JSON"),
        ({"conversations": [], "tools": "{"}, "field 'tools' is not JSON"),
    ],
)
def test_what_is_wrong_in_a_sharegpt_row_is_named(row, problem):
    found = find_format(row, None, None)

    def read():
        return found.to_messages(row), found.tools(row)

    with pytest.raises(RowFault, match=problem):
        read()


def test_preferences_are_refused_by_their_name():
    with pytest.raises(NoTextColumnsError, match="rows of preferences"):
        find_format(["conversations", "chosen", "rejected"], None, None)


@pytest.mark.parametrize("value", ["[]", [], "", None])
def test_no_tools_are_none(value):
    row = {"conversations": [], "tools": value}
    assert find_format(row, None, None).tools(row) is None


def test_a_column_that_is_called_tools_by_chance_is_none_of_ours():
    row = {"prompt": "q", "completion": "a", "tools": "hammer"}
    assert find_format(row, None, None).tools(row) is None
