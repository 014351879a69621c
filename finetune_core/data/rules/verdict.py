"""What rules are, and what they say of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from finetune_core.data.formats import Message

Found = Literal["flag", "drop"]  # what most rules can do with what they find


class Verdict(NamedTuple):
    """What becomes of a row.

    Attributes:
        action: drop ends the row, change gives it other messages, flag only notes it.
        detail: What the ledger says; never the row's own text, which may be personal.
        messages: What a changed row goes on as.
    """

    action: Literal["drop", "change", "flag"]
    detail: str
    messages: list[Message] | None = None


# Given a row's number and messages, says what becomes of it, or nothing. It may remember digests
# of the rows that it has seen, never the rows.
Rule = Callable[[int, list[Message]], "Verdict | None"]
