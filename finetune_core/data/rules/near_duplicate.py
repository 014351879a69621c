"""Finds rows that say nearly what an earlier row said."""

from __future__ import annotations

from finetune_core.data.formats import Message
from finetune_core.data.rules.signatures import Signatures
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def near_duplicate(action: Found, threshold: float) -> Rule:
    """Makes the rule."""
    seen = Signatures(threshold)

    def check(number: int, messages: list[Message]) -> Verdict | None:
        near = seen.nearest_or_add(number, messages)
        return Verdict(action, f"{near[1]:.0%} the same as row {near[0]}") if near else None

    return check
