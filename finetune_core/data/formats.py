"""The shapes that rows come in, and the one form that all of them become: conversations."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from finetune_core.exceptions import NoTextColumnsError
from finetune_core.types import DatasetFormat

Row = Mapping[str, Any]

ALPACA_ANSWERS = ("output", "response")
PLAIN_NAME = re.compile(r"[!-~](?:[ -~]{0,78}[!-~])?")
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
    if isinstance(value, float) and math.isinf(value):
        raise RowFault(f"field {column!r} is {value}, a number too large to be one")
    if isinstance(value, (int, float, bool)):
        return str(value)
    raise RowFault(f"field {column!r} should be text, found {type(value).__name__}")


def listing(names: Iterable[str]) -> str:
    """Names for a message: `question, answer`."""
    shown = [name if PLAIN_NAME.fullmatch(name) else ascii(name)[:80] for name in names]
    more = f" and {len(shown) - 20:,} more" if len(shown) > 20 else ""
    return (", ".join(shown[:20]) or "none") + more


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
    asked_in_answers = len(chosen) > 1 and chosen[:1] == rejected[:1]
    if "conversations" in row:
        asked = _scene(row) + _turns(row["conversations"], "conversations")
    elif isinstance(row.get("prompt"), (list, tuple)):
        asked = _scene(row) + _turns(row["prompt"], "prompt")
    elif "prompt" in row and not asked_in_answers:
        asked = [*_scene(row), user(text(row, "prompt"))]
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
    scene = text(row, "system") if "system" in row else ""
    return [system(scene)] if scene else []


def _turns(turns: Any, column: str) -> list[Message]:
    if not isinstance(turns, (list, tuple)):
        raise RowFault(f"field {column!r} should be a list, found {type(turns).__name__}")
    messages = []
    for number, turn in enumerate(turns, start=1):
        is_sharegpt = isinstance(turn, Mapping) and "from" in turn
        try:
            messages.append(_sharegpt_turn(turn) if is_sharegpt else _chat_turn(turn))
        except RowFault as fault:
            name = "turn" if is_sharegpt else "message"
            raise RowFault(f"{name} {number} of {column!r} {fault}") from None
    return messages


def _chat_turn(turn: Any) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
        found = turn.get("role") if isinstance(turn, Mapping) else type(turn).__name__
        raise RowFault(f"needs a role, one of {listing(ROLES)} (found {found!r})")
    weight = 1 if turn.get("weight") is None else turn["weight"]
    if weight not in (0, 1):
        raise RowFault(f"has the weight {weight!r}, which may be 0 or 1")
    calls = _calls(_some_json(turn.get("tool_calls"), "tool_calls"), "tool_calls")
    return Message(
        role=turn["role"],
        content=text(turn, "content") if "content" in turn or not calls else "",
        trained=turn["role"] == "assistant" and weight != 0,
        tool_calls=calls,
    )


def _sharegpt_turn(turn: Row) -> Message:
    sender = turn["from"]
    if not isinstance(sender, str) or sender not in SHAREGPT_ROLES:
        raise RowFault(f"needs a 'from', one of {listing(SHAREGPT_ROLES)} (found {sender!r})")
    role, content, calls = SHAREGPT_ROLES[sender], text(turn, "value"), None
    if sender == "function_call":
        content, calls = "", _sharegpt_calls(content)
    return Message(role=role, content=content, trained=role == "assistant", tool_calls=calls)


def _sharegpt_calls(value: str) -> str | None:
    """The calls of a sharegpt turn, `{name, arguments}` or a list of these, as chats have them."""
    parsed = json.loads(json_text(value, "the function_call"))
    functions = parsed if isinstance(parsed, list) else [parsed]
    calls = [{"type": "function", "function": function} for function in functions]
    return _calls(json.dumps(calls), "the function_call")


def _calls(calls: str | None, what: str) -> str | None:
    """Calls as they are, if they are a list of functions with names."""
    if calls is None:
        return None
    parsed = json.loads(calls)
    if not isinstance(parsed, list):
        raise RowFault(f"{what} should be a list of calls, found {type(parsed).__name__}")
    for call in parsed:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowFault(f"{what} has a call without a function's name")
    return calls


def _tools(row: Row) -> str | None:
    """The tools that a conversation may call, as a JSON list, where the row names any."""
    tools = _some_json(row.get("tools"), "field 'tools'")
    if tools and not tools.startswith("["):
        raise RowFault(f"field 'tools' should be a list, found {tools[:20]}")
    return tools


def _some_json(value: Any, what: str) -> str | None:
    """A value as JSON, where there is anything in it."""
    found = json_text(value, what) if value and value == value else "null"
    return None if found in ("[]", "null") else found


def json_text(value: Any, what: str) -> str:
    """A value as JSON, which it may be already.

    Raises:
        RowFault: It is text, but not JSON.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        return json.dumps(json.loads(value))
    except (ValueError, RecursionError) as error:
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
                f"missing column {', '.join(map(ascii, missing))}",
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
