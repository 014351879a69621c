"""Finds training rows that also stand in the validation file, so that it measures no memory."""

from __future__ import annotations

from finetune_core.data.formats import Message
from finetune_core.data.rules.content import digest
from finetune_core.data.rules.signatures import Signatures
from finetune_core.data.rules.verdict import Found, Verdict


class Leak:
    """The rule: `remember` for each row of the validation file, then `check` for training rows."""

    def __init__(self, action: Found) -> None:
        self._action = action
        self._held_out: dict[bytes, int] = {}

    def remember(self, number: int, messages: list[Message]) -> None:
        """Takes a held-out row in, as 16 bytes and its number."""
        self._held_out.setdefault(digest(messages), number)

    def check(self, number: int, messages: list[Message]) -> Verdict | None:
        """Judges a training row."""
        found = self._held_out.get(digest(messages))
        if found is None:
            return None
        return Verdict(self._action, f"the same as row {found} of the validation file")


class NearLeak:
    """As `Leak`, for rows that are nearly the same."""

    def __init__(self, action: Found, threshold: float) -> None:
        self._action = action
        self._held_out = Signatures(threshold)

    def remember(self, number: int, messages: list[Message]) -> None:
        """Takes a held-out row in, as its signature."""
        self._held_out.add(number, messages)

    def check(self, number: int, messages: list[Message]) -> Verdict | None:
        """Judges a training row."""
        near = self._held_out.nearest(messages)
        if near is None:
            return None
        detail = f"{near[1]:.0%} the same as row {near[0]} of the validation file"
        return Verdict(self._action, detail)
