"""Finds training rows that also stand in a held-out file, so that it measures no memory."""

from __future__ import annotations

from finetune_core.data.rules.content import Fingerprint
from finetune_core.data.rules.verdict import Found, Verdict


class Leak:
    """The rule: `remember` for each row of a held-out file, then `check` for training rows."""

    def __init__(self, action: Found) -> None:
        self._action = action
        self._held_out: dict[bytes, tuple[str, int]] = {}

    def remember(self, file: str, number: int, fingerprint: Fingerprint) -> None:
        """Takes a held-out row in, as 16 bytes and its place."""
        self._held_out.setdefault(fingerprint.whole, (file, number))

    def check(self, number: int, fingerprint: Fingerprint) -> Verdict | None:
        """Judges a training row."""
        found = self._held_out.get(fingerprint.whole)
        if found is None:
            return None
        return Verdict(self._action, f"the same as row {found[1]} of the {found[0]} file")
