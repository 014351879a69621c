"""Conversations as the columns of Arrow and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from finetune_core.data.formats import Conversation, Message

MESSAGE_TYPE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("trained", pa.bool_()),
        ("tool_calls", pa.string()),
    ]
)
CONVERSATION_FIELDS = [
    pa.field("messages", pa.list_(MESSAGE_TYPE)),
    pa.field("tools", pa.string()),  # what the conversation may call, as JSON
    pa.field("rejected", pa.list_(MESSAGE_TYPE)),
]
PLACE_FIELDS = [
    pa.field("file", pa.string()),  # training | validation | evaluation
    pa.field("row", pa.int64()),  # its number there, counted from 1
]
ROWS_SCHEMA = pa.schema([*PLACE_FIELDS, *CONVERSATION_FIELDS])


def to_columns(conversations: Sequence[Conversation]) -> list[pa.Array]:
    """The columns of `CONVERSATION_FIELDS`."""
    return [
        _messages([each.messages for each in conversations]),
        pa.array([each.tools for each in conversations], pa.string()),
        _messages([each.rejected for each in conversations]),
    ]


def to_conversation(row: dict[str, Any]) -> Conversation:
    """What `to_columns` wrote of one row, as `to_pylist` gives it."""
    return Conversation(row["messages"], row["tools"], row["rejected"])


def _messages(rows: Sequence[Sequence[Message]]) -> pa.Array:
    flat = [message for messages in rows for message in messages]
    fields = [
        pa.array([message[field.name] for message in flat], field.type)  # type: ignore[literal-required]
        for field in MESSAGE_TYPE
    ]
    offsets = pa.array([0, *accumulate(map(len, rows))], pa.int32())
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(fields, fields=MESSAGE_TYPE)
    )
