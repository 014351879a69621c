"""Finds rows that answer otherwise what an earlier row asked."""

from __future__ import annotations

from finetune_core.data.rules.content import Fingerprint
from finetune_core.data.rules.verdict import Comparison, Found, Verdict


def conflict(action: Found) -> Comparison:
    """Makes the rule: the same turns before the last answer to be learned, but another answer.

    It remembers 32 bytes and a number for each row.
    """
    seen: dict[bytes, tuple[bytes, int]] = {}

    def check(number: int, fingerprint: Fingerprint) -> Verdict | None:
        whole, asked = fingerprint
        if asked is None:
            return None
        known, first = seen.setdefault(asked, (whole, number))
        if known == whole:
            return None
        return Verdict(action, f"the same input as row {first}, but another answer")

    return check
