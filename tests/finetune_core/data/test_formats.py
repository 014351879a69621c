"""Each shape of rows is found by its columns and becomes a conversation."""

from __future__ import annotations

import json
import math

import pytest

from finetune_core.data.formats import FORMATS, Conversation, RowFault, find_format
from finetune_core.exceptions import NoTextColumnsError
from finetune_core.types import DatasetFormat


def read(row, **named):
    return find_format(row, **named).read(row)


def brief(messages):
    """Turns as role, text and whether they are trained."""
    return [(m["role"], m["content"], m["trained"]) for m in messages]


def said(row, **named):
    """The row's format and its turns."""
    found = find_format(row, **named)
    return found.name, brief(found.read(row).messages)


PAIR = [("user", "q", False), ("assistant", "a", True)]
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
WORSE = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "name", "turns"),
    [
        ({"prompt": "q", "completion": "a"}, "prompt_completion", PAIR),
        ({"text": "q", "label": "a"}, "text_label", PAIR),
        ({"question": "q", "answer": "a", "id": 5}, "question_answer", PAIR),
        ({"db_name": "x", "query": "a", "question": "q"}, "question_query", PAIR),
        ({"question": "q", "query": "x", "answer": "a"}, "question_answer", PAIR),
        ({"instruction": "q", "output": "a"}, "alpaca", PAIR),
        ({"instruction": "q", "response": "a", "input": ""}, "alpaca", PAIR),
        (
            {"instruction": "do", "input": "this", "output": "a"},
            "alpaca",
            [("user", "do\n\nthis", False), ("assistant", "a", True)],
        ),
        ({"conversations": [HUMAN, GPT]}, "sharegpt", PAIR),
        (
            {"system": "s", "conversations": [HUMAN, GPT]},
            "sharegpt",
            [("system", "s", False), *PAIR],
        ),
        ({"messages": [ASKED, ANSWERED]}, "chat", PAIR),
        ({"text": "once upon"}, "text", [("text", "once upon", True)]),
        ({"url": "u", "text": "once upon"}, "text", [("text", "once upon", True)]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference", PAIR),
    ],
)
def test_a_format_is_found_by_its_columns(row, name, turns):
    assert said(row) == (name, turns)


def test_every_format_that_can_be_named_is_known():
    assert {each.name for each in FORMATS} == {each.value for each in DatasetFormat}


def test_a_chat_keeps_every_turn_and_trains_the_assistants_but_those_of_weight_0():
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "tool", "content": "t"},
        {"role": "assistant", "content": "b", "weight": 1},
        {"role": "assistant", "content": "c", "weight": None},
        {"role": "user", "content": "d", "weight": 1},
        {"role": "assistant", "content": "e", "weight": 0.0},
    ]
    _, messages = said({"messages": turns})
    assert [(role, content) for role, content, _ in messages] == [
        (turn["role"], turn["content"]) for turn in turns
    ]
    assert [content for _, content, trained in messages if trained] == ["b", "c"]


def test_named_columns_win_over_found_ones():
    row = {"prompt": "x", "completion": "y", "chosen": "c", "rejected": "r", "in": "q", "out": "a"}
    assert said(row, input_field="in", output_field="out") == ("two_columns", PAIR)


@pytest.mark.parametrize(
    ("forced", "turns"),
    [
        ("text", [("text", "t", True)]),
        ("text_label", [("user", "t", False), ("assistant", "l", True)]),
        ("alpaca", [("user", "i", False), ("assistant", "r", True)]),
        ("prompt_completion", [("user", "p", False), ("assistant", "c", True)]),
        ("question_query", PAIR),
        ("chat", PAIR),
        ("sharegpt", PAIR),
        ("preference", [("user", "p", False), ("assistant", "yes", True)]),
    ],
)
def test_a_forced_format_is_taken_whatever_else_would_fit(forced, turns):
    row = {
        "messages": [ASKED, ANSWERED],
        "instruction": "i",
        "response": "r",
        "prompt": "p",
        "completion": "c",
        "text": "t",
        "label": "l",
        "question": "q",
        "query": "a",
        "chosen": "yes",
        "rejected": "no",
    }
    if forced == "sharegpt":
        row["conversations"] = [HUMAN, GPT]
    assert said(row, forced=DatasetFormat(forced)) == (forced, turns)


def test_a_forced_format_that_does_not_fit_says_what_it_needs():
    with pytest.raises(NoTextColumnsError) as caught:
        find_format(["text", "label"], forced=DatasetFormat.QUESTION_QUERY)
    assert "question_query" in caught.value.message
    assert "text, label" in caught.value.message
    assert "question, query" in caught.value.hint
    assert "messages" not in caught.value.hint


def test_the_message_names_the_columns_found_and_needed():
    with pytest.raises(NoTextColumnsError) as caught:
        find_format(["body", "title"])
    assert "body, title" in caught.value.message
    for each in FORMATS:
        assert ", ".join(each.columns) in caught.value.hint


def test_the_message_names_the_missing_column_and_those_that_are_there():
    with pytest.raises(NoTextColumnsError) as caught:
        find_format(["body", "title"], "body", "label")
    assert caught.value.message == "missing column 'label'"
    assert "body, title" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (0, "0"), (0.5, "0.5"), (True, "True"), (False, "False"), (None, "")],
)
def test_a_label_that_is_no_text_is_written_out(value, text):
    _, messages = said({"text": "q", "label": value})
    assert messages[1] == ("assistant", text, True)


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"text": "q", "label": math.nan}, [("user", "q", False), ("assistant", "", True)]),
        ({"text": math.nan}, [("text", "", True)]),
        ({"instruction": "q", "input": math.nan, "output": "a"}, PAIR),
        ({"prompt": math.nan, "chosen": "a", "rejected": "b"}, [("user", "", False), PAIR[1]]),
        ({"system": math.nan, "conversations": [HUMAN, GPT]}, PAIR),
    ],
)
def test_what_a_table_has_as_nan_is_missing(row, turns):
    assert said(row)[1] == turns


def test_tools_that_a_table_has_as_nan_are_none():
    assert read({"conversations": [HUMAN, GPT], "tools": math.nan}).tools is None


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": ["q"], "completion": "a"}, "field 'prompt' should be text, found list"),
        ({"prompt": "q", "completion": {}}, "field 'completion' should be text, found dict"),
        ({"text": b"q"}, "field 'text' should be text, found bytes"),
        ({"messages": "q"}, "field 'messages' should be a list, found str"),
        ({"messages": None}, "field 'messages' should be a list, found NoneType"),
        ({"messages": {}}, "field 'messages' should be a list, found dict"),
        ({"messages": ["q"]}, "message 1 .*needs a role"),
        ({"messages": [ASKED, {"role": "bot", "content": "q"}]}, "message 2 .*needs a role"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "message 1 .*needs a role"),
        ({"messages": [{"role": "user", "text": "q"}]}, "has no field 'content'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "should be text"),
        ({"messages": [{**ANSWERED, "tool_calls": "{"}]}, "message 1 .*tool_calls is not JSON"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, "turn 1 .*needs a 'from'"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "turn 1 .*needs a 'from'"),
        ({"conversations": [{"from": "human"}]}, "has no field 'value'"),
        ({"conversations": "hello"}, "field 'conversations' should be a list, found str"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "turn 1 .*is not JSON"),
        ({"conversations": [{"from": "function_call", "value": "5"}]}, "turn 1"),
        ({"conversations": [], "tools": "{"}, "field 'tools' is not JSON"),
        ({"conversations": [], "tools": "[" * 100_000}, "field 'tools' is not JSON"),
        ({"prompt": {}, "chosen": "a", "rejected": "b"}, "field 'prompt' should be text"),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "field 'chosen' should be text"),
        ({"chosen": "a", "rejected": ["b"]}, "message 1 .*needs a role"),
        ({"conversations": 5, "chosen": "a", "rejected": "b"}, "'conversations' should be a list"),
    ],
)
def test_a_row_that_does_not_fit_says_which_field(row, problem):
    with pytest.raises(RowFault, match=problem):
        read(row)


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
    messages, tools, rejected = read(row)
    assert brief(messages) == [
        ("user", "Rain in Porto?", False),
        ("assistant", "", True),
        ("tool", "yes", False),
        ("assistant", "It rains.", True),
    ]
    assert json.loads(messages[1]["tool_calls"]) == AS_CHATS_HAVE_IT
    assert json.loads(tools) == [{"name": "weather"}]
    assert not rejected


def test_several_calls_of_a_sharegpt_turn_stay_in_order():
    calls = [{"name": name, "arguments": {}} for name in ("b", "a")]
    (turn,), _, _ = read({"conversations": [{"from": "function_call", "value": json.dumps(calls)}]})
    assert [each["function"] for each in json.loads(turn["tool_calls"])] == calls


def test_a_chats_calls_are_kept_beside_its_text():
    turn = {"role": "assistant", "content": "Let me see.", "tool_calls": AS_CHATS_HAVE_IT}
    (_, answer), _, _ = read({"messages": [ASKED, turn]})
    assert answer["content"] == "Let me see."
    assert json.loads(answer["tool_calls"]) == AS_CHATS_HAVE_IT


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_a_chats_call_needs_no_text(content):
    turn = {"role": "assistant", "tool_calls": json.dumps(AS_CHATS_HAVE_IT), **content}
    (answer,), _, _ = read({"messages": [turn]})
    assert (answer["content"], json.loads(answer["tool_calls"])) == ("", AS_CHATS_HAVE_IT)


@pytest.mark.parametrize("calls", [[], None, "", "[]", "null"])
def test_no_calls_are_none(calls):
    _, answer = read({"messages": [ASKED, {**ANSWERED, "tool_calls": calls}]}).messages
    assert answer["tool_calls"] is None


@pytest.mark.parametrize("value", ["[]", [], "", None, "null", " [ ] "])
@pytest.mark.parametrize("row", [{"conversations": []}, {"messages": []}])
def test_no_tools_are_none(row, value):
    assert read({**row, "tools": value}).tools is None


def test_a_column_that_is_called_tools_by_chance_is_none_of_ours():
    assert read({"prompt": "q", "completion": "a", "tools": "hammer"}).tools is None


B = [("assistant", "b", True)]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, 1),
        ({"prompt": "q", "chosen": [ANSWERED], "rejected": [WORSE]}, 1),
        ({"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [WORSE]}, 1),
        ({"prompt": [ASKED], "chosen": ANSWERED, "rejected": WORSE}, 1),
        ({"prompt": [ASKED], "chosen": "a", "rejected": "b"}, 1),
        ({"prompt": [HUMAN], "chosen": [GPT], "rejected": [{"from": "gpt", "value": "b"}]}, 1),
        ({"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "b"}}, 1),
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, WORSE]}, 1),
        (
            {
                "chosen": [ASKED, ANSWERED, ASKED, ANSWERED],
                "rejected": [ASKED, ANSWERED, ASKED, WORSE],
            },
            3,
        ),
        ({"prompt": [ASKED, ANSWERED, ASKED], "chosen": [ANSWERED], "rejected": [WORSE]}, 3),
    ],
)
def test_a_preference_has_a_prompt_that_is_read_and_two_answers(row, asked):
    messages, tools, rejected = read(row)
    assert brief(messages) == [(role, text, False) for role, text, _ in (PAIR * 2)[:asked]] + [
        PAIR[1]
    ]
    assert brief(rejected) == B
    assert tools is None


# As ultrafeedback_binarized, orpo-dpo-mix and many others have it: the prompt once more, as text.
def test_a_prompt_that_both_answers_begin_with_is_not_asked_twice():
    row = {"prompt": "q", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, WORSE]}
    messages, _, rejected = read(row)
    assert brief(messages) == PAIR
    assert brief(rejected) == B


def test_the_answers_of_a_preference_may_part_ways_before_their_end():
    one, two = ({"role": "user", "content": each} for each in "12")
    row = {
        "chosen": [ASKED, ANSWERED, one, ANSWERED],
        "rejected": [ASKED, WORSE, one, ANSWERED, two, WORSE],
    }
    messages, _, rejected = read(row)
    assert brief(messages) == [*PAIR, ("user", "1", False), ("assistant", "a", True)]
    assert [content for _, content, _ in brief(rejected)] == ["b", "1", "a", "2", "b"]


def test_answers_that_are_the_same_still_are_answers():
    messages, _, rejected = read({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]})
    assert brief(messages) == PAIR
    assert brief(rejected) == [PAIR[1]]


def test_an_answer_that_goes_on_keeps_what_it_adds():
    longer = [ASKED, ANSWERED, ASKED, WORSE]
    messages, _, rejected = read({"chosen": longer, "rejected": [ASKED, ANSWERED]})
    assert brief(messages[:1]) == [("user", "q", False)]
    assert [content for _, content, _ in brief(messages[1:])] == ["a", "q", "b"]
    assert brief(rejected) == [PAIR[1]]


@pytest.mark.parametrize(
    "prompt", [{"conversations": [HUMAN]}, {"prompt": "q"}, {"prompt": [ASKED]}]
)
def test_a_preferences_system_column_sets_the_scene(prompt):
    messages = read({"system": "s", **prompt, "chosen": "a", "rejected": "b"}).messages
    assert brief(messages) == [("system", "s", False), *PAIR]


def test_a_preferences_tools_and_calls_are_kept():
    value = json.dumps(CALL)
    row = {
        "conversations": [HUMAN],
        "chosen": {"from": "function_call", "value": value},
        "rejected": {"from": "gpt", "value": "b"},
        "tools": [{"name": "weather"}],
    }
    messages, tools, _ = read(row)
    assert json.loads(messages[1]["tool_calls"]) == AS_CHATS_HAVE_IT
    assert json.loads(tools) == [{"name": "weather"}]


def test_reading_leaves_the_row_as_it_was():
    row = {"chosen": [dict(ASKED), dict(ANSWERED)], "rejected": [dict(ASKED), dict(WORSE)]}
    before = json.dumps(row)
    assert isinstance(read(row), Conversation)
    assert json.dumps(row) == before
