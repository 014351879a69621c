"""Finds rows that say exactly what an earlier row said."""

from __future__ import annotations

from finetune_core.data.formats import Message
from finetune_core.data.rules.content import digest
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def duplicate(action: Found) -> Rule:
    """Makes the rule. It remembers 16 bytes and a number for each row, not the row."""
    seen: dict[bytes, int] = {}

    def check(number: int, messages: list[Message]) -> Verdict | None:
        first = seen.setdefault(digest(messages), number)
        return None if first == number else Verdict(action, f"the same as row {first}")

    return check
