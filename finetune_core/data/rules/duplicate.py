"""Finds rows that say exactly what an earlier row said."""

from __future__ import annotations

from finetune_core.data.rules.content import Fingerprint
from finetune_core.data.rules.verdict import Comparison, Found, Verdict


def duplicate(action: Found) -> Comparison:
    """Makes the rule. It remembers 16 bytes and a number for each row, not the row."""
    seen: dict[bytes, int] = {}

    def check(number: int, fingerprint: Fingerprint) -> Verdict | None:
        first = seen.setdefault(fingerprint.whole, number)
        return None if first == number else Verdict(action, f"the same as row {first}")

    return check
