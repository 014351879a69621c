"""The shapes that rows come in, and the one form that all of them become: messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from finetune_core.exceptions import NoTextColumnsError

Row = Mapping[str, Any]

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


class RowFault(Exception):
    """A row that does not fit its format; the text says which field is wrong."""


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Attributes:
        name: How reports call it.
        columns: What a row must have.
        to_messages: Makes a row's messages.
        has_tools: Whether a column `tools` lists what a conversation may call.

    Raises from `to_messages`:
        RowFault: The row does not fit.
    """

    name: str
    columns: tuple[str, ...]
    to_messages: Callable[[Row], list[Message]]
    has_tools: bool = False

    def tools(self, row: Row) -> str | None:
        """The tools that a conversation may call, as a JSON list, where the row names any.

        Raises:
            RowFault: They are not JSON.
        """
        value = row.get("tools") if self.has_tools else None
        text = json_text(value, "field 'tools'") if value else "[]"
        return None if text == "[]" else text


def system(content: str) -> Message:
    """A turn that sets the scene."""
    return Message(role="system", content=content, trained=False, tool_calls=None)


def user(content: str) -> Message:
    """A turn that is read, not learned."""
    return Message(role="user", content=content, trained=False, tool_calls=None)


def assistant(content: str) -> Message:
    """A turn that the model learns to write."""
    return Message(role="assistant", content=content, trained=True, tool_calls=None)


def two_columns(name: str, prompt: str, answer: str) -> Format:
    """The format of rows with a column for the prompt and one for the answer."""

    def to_messages(row: Row) -> list[Message]:
        return [user(text(row, prompt)), assistant(text(row, answer))]

    return Format(name, (prompt, answer), to_messages)


def text(row: Row, column: str) -> str:
    """A column's text; numbers and booleans are written out, as labels often are.

    Raises:
        RowFault: The column is absent, or holds no single value.
    """
    if column not in row:
        raise RowFault(f"has no field {column!r} (found: {listing(row)})")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, (str, int, float, bool)):
        return str(value)
    raise RowFault(f"field {column!r} should be text, found {type(value).__name__}")


def listing(names: Iterable[str]) -> str:
    """Names for a message: `question, answer`."""
    return ", ".join(names) or "none"


def _alpaca(answer: str) -> Format:
    def to_messages(row: Row) -> list[Message]:
        parts = [text(row, "instruction"), text(row, "input") if "input" in row else ""]
        return [user("\n\n".join(part for part in parts if part)), assistant(text(row, answer))]

    return Format("alpaca", ("instruction", answer), to_messages)


def _chat(row: Row) -> list[Message]:
    turns = row["messages"]
    if not isinstance(turns, (list, tuple)):
        raise RowFault(f"field 'messages' should be a list, found {type(turns).__name__}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            raise RowFault(f"message {number} needs a role, one of {listing(ROLES)}")
        calls = turn.get("tool_calls")
        messages.append(
            Message(
                role=turn["role"],
                content=text(turn, "content") if "content" in turn or not calls else "",
                trained=turn["role"] == "assistant" and turn.get("weight", 1) != 0,
                tool_calls=json_text(calls, f"tool_calls of message {number}") if calls else None,
            )
        )
    return messages


def _sharegpt(row: Row) -> list[Message]:
    turns = row["conversations"]
    if not isinstance(turns, (list, tuple)):
        raise RowFault(f"field 'conversations' should be a list, found {type(turns).__name__}")
    messages = []
    if scene := row.get("system"):
        messages.append(system(scene))
    for number, turn in enumerate(turns, start=1):
        sender = turn.get("from") if isinstance(turn, Mapping) else None
        if sender not in SHAREGPT_ROLES:
            raise RowFault(f"turn {number} needs a 'from', one of {listing(SHAREGPT_ROLES)}")
        role, content, calls = SHAREGPT_ROLES[sender], text(turn, "value"), None
        if sender == "function_call":
            content, calls = "", _calls(content, number)
        messages.append(
            Message(role=role, content=content, trained=role == "assistant", tool_calls=calls)
        )
    return messages


def _calls(value: str, number: int) -> str:
    """The calls of a sharegpt turn, `{name, arguments}` or a list of these, as chats have them."""
    parsed = json.loads(json_text(value, f"the function_call of turn {number}"))
    functions = parsed if isinstance(parsed, list) else [parsed]
    return json.dumps([{"type": "function", "function": function} for function in functions])


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


FORMATS = (
    Format("chat", ("messages",), _chat, has_tools=True),
    Format("sharegpt", ("conversations",), _sharegpt, has_tools=True),
    _alpaca("output"),
    _alpaca("response"),
    two_columns("prompt_completion", "prompt", "completion"),
    two_columns("text_label", "text", "label"),
    two_columns("question_answer", "question", "answer"),
)


def find_format(
    columns: Iterable[str], input_field: str | None, output_field: str | None
) -> Format:
    """Finds the format from the columns of the first row.

    Args:
        columns: The first row's columns.
        input_field: The column of the prompt, where the user named it.
        output_field: The column of the answer, where the user named it.

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
    if {"chosen", "rejected"} <= set(found):
        raise NoTextColumnsError(
            "these are rows of preferences (chosen, rejected), from which no method learns yet",
            hint="To learn the chosen answers alone, name two columns by --input-field and "
            "--output-field.",
        )
    for format_ in FORMATS:
        if set(format_.columns) <= set(found):
            return format_
    needed = "; ".join(listing(format_.columns) for format_ in FORMATS)
    raise NoTextColumnsError(
        f"no format fits the columns: {listing(found)}",
        hint=f"Needed is one of: {needed}. "
        "Or name two columns by --input-field and --output-field.",
    )
