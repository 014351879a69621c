"""A row's content as rules see it: all of its text to rewrite, and its digest to compare."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from finetune_core.data.formats import Message


def rewrite(messages: list[Message], change: Callable[[str], str]) -> list[Message]:
    """The messages with all of their text changed, that in tool calls too."""
    return [
        Message(
            role=message["role"],
            content=change(message["content"]),
            trained=message["trained"],
            tool_calls=_rewrite_json(message["tool_calls"], change),
        )
        for message in messages
    ]


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value made of lists and mappings, with everything else in it changed, but for keys."""
    if isinstance(value, dict):
        return {key: map_leaves(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_leaves(each, change) for each in value]
    return change(value)


def digest(messages: Sequence[Message]) -> bytes:
    """16 bytes that are equal where rows say the same but for white space and forms of Unicode."""
    turns = [
        (
            message["role"],
            " ".join(unicodedata.normalize("NFC", message["content"]).split()),
            message["trained"],
            message["tool_calls"],
        )
        for message in messages
    ]
    return hashlib.sha256(repr(turns).encode()).digest()[:16]


def _rewrite_json(text: str | None, change: Callable[[str], str]) -> str | None:
    # Parsed first: in the text itself, escapes like \n would be taken for letters.
    if text is None:
        return None
    return json.dumps(
        map_leaves(json.loads(text), lambda leaf: change(leaf) if isinstance(leaf, str) else leaf)
    )
