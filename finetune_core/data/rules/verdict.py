"""What rules are, and what they say of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from finetune_core.data.formats import Conversation
from finetune_core.data.rules.content import Fingerprint

Found = Literal["flag", "drop"]  # what most rules can do with what they find


class Verdict(NamedTuple):
    """What becomes of a row.

    Attributes:
        action: drop ends the row, change gives it another conversation, flag only notes it.
        detail: What the ledger says; never the row's own text, which may be personal.
        changed: What a changed row goes on as.
    """

    action: Literal["drop", "change", "flag"]
    detail: str
    changed: Conversation | None = None


# Says what becomes of a row by itself, or nothing.
Rule = Callable[[Conversation], "Verdict | None"]

# Says it of a row by its number and fingerprint, and of what was seen before.
Comparison = Callable[[int, Fingerprint], "Verdict | None"]
