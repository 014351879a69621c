"""Drops rows that say exactly what an earlier row said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from finetune_core.data.formats import Message


def duplicate() -> Callable[[int, list[Message]], str | None]:
    """Makes the rule. It remembers 16 bytes and a number for each row, not the row."""
    seen: dict[bytes, int] = {}

    def check(number: int, messages: list[Message]) -> str | None:
        turns = [(m["role"], " ".join(m["content"].split()), m["trained"]) for m in messages]
        key = hashlib.sha256(json.dumps(turns).encode()).digest()[:16]
        first = seen.setdefault(key, number)
        return None if first == number else f"the same as row {first}"

    return check
