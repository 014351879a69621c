"""The shapes that rows come in, and the one form that all of them become: conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from finetune_core.exceptions import NoTextColumnsError
from finetune_core.types import DatasetFormat

Row = Mapping[str, Any]

ALPACA_ANSWERS = ("output", "response")
TEXT = "text"  # the role of a plain text, which is all that its row has
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}


class Message(TypedDict):
    """One turn; `trained` says whether the model learns to write it.

    `tool_calls` is a JSON list of calls as chat templates take them, where the turn makes some.
    """

    role: str
    content: str
    trained: bool
    tool_calls: str | None


class Conversation(NamedTuple):
    """A row in the one form.

    Attributes:
        messages: The turns. A plain text is one message of the role `text`.
        tools: What may be called, as a JSON list.
        rejected: The turns that somebody liked less than the trained ones, of a preference.
    """

    messages: list[Message]
    tools: str | None = None
    rejected: Sequence[Message] = ()


class RowFault(Exception):
    """A row that does not fit its format; the text says which field is wrong."""


class Format(NamedTuple):
    """A shape of rows.

    Attributes:
        name: How reports call it.
        columns: What a row must have.
        read: Makes a row's conversation, or raises a `RowFault`.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], Conversation]


def system(content: str) -> Message:
    """A turn that sets the scene."""
    return Message(role="system", content=content, trained=False, tool_calls=None)


def user(content: str) -> Message:
    """A turn that is read, not learned."""
    return Message(role="user", content=content, trained=False, tool_calls=None)


def assistant(content: str) -> Message:
    """A turn that the model learns to write."""
    return Message(role="assistant", content=content, trained=True, tool_calls=None)


def plain_text(content: str) -> Message:
    """A text of which the model learns all."""
    return Message(role=TEXT, content=content, trained=True, tool_calls=None)


def two_columns(name: str, prompt: str, answer: str) -> Format:
    """The format of rows with a column for the prompt and one for the answer."""

    def read(row: Row) -> Conversation:
        return Conversation([user(text(row, prompt)), assistant(text(row, answer))])

    return Format(name, (prompt, answer), read)


def text(row: Row, column: str) -> str:
    """A column's text; numbers and booleans are written out, as labels often are.

    Raises:
        RowFault: The column is absent, or holds no single value.
    """
    if column not in row:
        raise RowFault(f"has no field {column!r} (found: {listing(row)})")
    value = row[column]
    if isinstance(value, str):
        return value
    if value is None or value != value:  # what is missing from a table of numbers is NaN
        return ""
    if isinstance(value, (int, float, bool)):
        return str(value)
    raise RowFault(f"field {column!r} should be text, found {type(value).__name__}")


def listing(names: Iterable[str]) -> str:
    """Names for a message: `question, answer`."""
    return ", ".join(names) or "none"


def _alpaca(answer: str) -> Format:
    def read(row: Row) -> Conversation:
        parts = [text(row, "instruction"), text(row, "input") if "input" in row else ""]
        asked = user("\n\n".join(part for part in parts if part))
        return Conversation([asked, assistant(text(row, answer))])

    return Format(DatasetFormat.ALPACA.value, ("instruction", answer), read)


def _chat(row: Row) -> Conversation:
    return Conversation(_turns(row["messages"], "messages"), _tools(row))


def _sharegpt(row: Row) -> Conversation:
    return Conversation(_scene(row) + _turns(row["conversations"], "conversations"), _tools(row))


def _text(row: Row) -> Conversation:
    return Conversation([plain_text(text(row, "text"))])


def _preference(row: Row) -> Conversation:
    """A prompt, by itself or as the turns with which both answers begin, and two answers."""
    chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
    if "conversations" in row:
        asked = _scene(row) + _turns(row["conversations"], "conversations")
    elif isinstance(row.get("prompt"), (list, tuple)):
        asked = _turns(row["prompt"], "prompt")
    elif "prompt" in row:
        asked = [user(text(row, "prompt"))]
    else:
        pairs = zip(chosen[:-1], rejected[:-1], strict=False)
        shared = next((n for n, (one, two) in enumerate(pairs) if one != two), None)
        shared = min(len(chosen), len(rejected)) - 1 if shared is None else shared
        asked, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    asked = [Message(**{**message, "trained": False}) for message in asked]
    return Conversation(asked + chosen, _tools(row), rejected)


def _answer(row: Row, column: str) -> list[Message]:
    value = row[column]
    if isinstance(value, (list, tuple)) and value:
        return _turns(value, column)
    if isinstance(value, Mapping):
        return _turns([value], column)
    return [assistant(text(row, column))]


def _scene(row: Row) -> list[Message]:
    return [system(text(row, "system"))] if row.get("system") else []


def _turns(turns: Any, column: str) -> list[Message]:
    if not isinstance(turns, (list, tuple)):
        raise RowFault(f"field {column!r} should be a list, found {type(turns).__name__}")
    return [
        _sharegpt_turn(turn, number)
        if isinstance(turn, Mapping) and "from" in turn
        else _chat_turn(turn, number)
        for number, turn in enumerate(turns, start=1)
    ]


def _chat_turn(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
        raise RowFault(f"message {number} needs a role, one of {listing(ROLES)}")
    calls = turn.get("tool_calls")
    return Message(
        role=turn["role"],
        content=text(turn, "content") if "content" in turn or not calls else "",
        trained=turn["role"] == "assistant" and turn.get("weight", 1) != 0,
        tool_calls=json_text(calls, f"tool_calls of message {number}") if calls else None,
    )


def _sharegpt_turn(turn: Row, number: int) -> Message:
    sender = turn["from"]
    if sender not in SHAREGPT_ROLES:
        raise RowFault(f"turn {number} needs a 'from', one of {listing(SHAREGPT_ROLES)}")
    role, content, calls = SHAREGPT_ROLES[sender], text(turn, "value"), None
    if sender == "function_call":
        content, calls = "", _calls(content, number)
    return Message(role=role, content=content, trained=role == "assistant", tool_calls=calls)


def _calls(value: str, number: int) -> str:
    """The calls of a sharegpt turn, `{name, arguments}` or a list of these, as chats have them."""
    parsed = json.loads(json_text(value, f"the function_call of turn {number}"))
    functions = parsed if isinstance(parsed, list) else [parsed]
    return json.dumps([{"type": "function", "function": function} for function in functions])


def _tools(row: Row) -> str | None:
    """The tools that a conversation may call, as a JSON list, where the row names any."""
    value = row.get("tools")
    tools = json_text(value, "field 'tools'") if value else "[]"
    return None if tools == "[]" else tools


def json_text(value: Any, what: str) -> str:
    """A value as JSON, which it may be already.

    Raises:
        RowFault: It is text, but not JSON.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        return json.dumps(json.loads(value))
    except ValueError as error:
        raise RowFault(f"{what} is not JSON ({error})") from None


# In the order in which they are tried: the first whose columns are all there is taken.
FORMATS = (
    Format(DatasetFormat.PREFERENCE.value, ("chosen", "rejected"), _preference),
    Format(DatasetFormat.CHAT.value, ("messages",), _chat),
    Format(DatasetFormat.SHAREGPT.value, ("conversations",), _sharegpt),
    *map(_alpaca, ALPACA_ANSWERS),
    two_columns(DatasetFormat.PROMPT_COMPLETION.value, "prompt", "completion"),
    two_columns(DatasetFormat.TEXT_LABEL.value, "text", "label"),
    two_columns(DatasetFormat.QUESTION_ANSWER.value, "question", "answer"),
    two_columns(DatasetFormat.QUESTION_QUERY.value, "question", "query"),
    Format(DatasetFormat.TEXT.value, ("text",), _text),
)


def find_format(
    columns: Iterable[str],
    input_field: str | None = None,
    output_field: str | None = None,
    forced: DatasetFormat | None = None,
) -> Format:
    """Finds the format from the columns of the first row.

    Args:
        columns: The first row's columns.
        input_field: The column of the prompt, where the user named it.
        output_field: The column of the answer, where the user named it.
        forced: The format, where the user named it.

    Raises:
        NoTextColumnsError: No format has these columns, or the named ones are not there.
    """
    found = list(columns)
    if input_field is not None and output_field is not None:
        missing = [name for name in (input_field, output_field) if name not in found]
        if missing:
            raise NoTextColumnsError(
                f"missing column {listing(map(repr, missing))}",
                hint=f"The columns are: {listing(found)}. "
                "Name two of them by --input-field and --output-field.",
            )
        return two_columns("two_columns", input_field, output_field)
    formats = [each for each in FORMATS if forced is None or each.name == forced.value]
    for format_ in formats:
        if set(format_.columns) <= set(found):
            return format_
    needed = "; ".join(listing(format_.columns) for format_ in formats)
    raise NoTextColumnsError(
        f"{f'{forced.value} rows do not have' if forced else 'no format fits'} "
        f"the columns: {listing(found)}",
        hint=f"Needed is {'' if forced else 'one of: '}{needed}. "
        "Or name two columns by --input-field and --output-field.",
    )
