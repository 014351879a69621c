"""Finds rows that answer otherwise what an earlier row asked."""

from __future__ import annotations

from finetune_core.data.formats import Message
from finetune_core.data.rules.content import digest
from finetune_core.data.rules.verdict import Found, Rule, Verdict


def conflict(action: Found) -> Rule:
    """Makes the rule: the same turns before the last answer to be learned, but another answer.

    It remembers 32 bytes and a number for each row.
    """
    seen: dict[bytes, tuple[bytes, int]] = {}

    def check(number: int, messages: list[Message]) -> Verdict | None:
        trained = [place for place, message in enumerate(messages) if message["trained"]]
        if not trained:
            return None
        asked, answer = digest(messages[: trained[-1]]), digest(messages[trained[-1] :])
        known, first = seen.setdefault(asked, (answer, number))
        if known == answer:
            return None
        return Verdict(action, f"the same input as row {first}, but another answer")

    return check
