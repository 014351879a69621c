"""The ledger: what became of every input row, and why, with the row itself unless it was kept.

Personal data and secrets never stand here in clear: what the config has a rule for, were it only
to flag it, is redacted in `original` too. Such a row is the one that cannot be read back whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

KEPT, CHANGED, DROPPED = "kept", "changed", "dropped"
OUTCOMES = {"drop": DROPPED, "change": CHANGED, "flag": KEPT}
COMMA = ", "
SIGNS = {"rule": COMMA, "action": COMMA, "detail": "; "}  # between what several rules found

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),  # training | validation | evaluation: where the row stood
        pa.field("row", pa.int64()),  # its number there, counted from 1
        pa.field("outcome", pa.string()),  # kept | changed | dropped
        # The rules that found something, by comma and in order; the last one dropped a dropped row.
        pa.field("rule", pa.string()),
        pa.field("action", pa.string()),  # what each of them did, by comma: flag | change | drop
        pa.field("detail", pa.string()),  # what each of them found, by semicolon
        pa.field("original", pa.string()),  # a changed or dropped row as JSON
    ]
)


class Finding(NamedTuple):
    """What a rule did with a row, and why."""

    rule: str
    action: str
    detail: str


def joined(findings: Sequence[Sequence[Finding]]) -> dict[str, pa.Array]:
    """The ledger's columns of what rules found, of some rows."""
    return {
        name: pa.array(
            [sign.join(getattr(each, name) for each in found) or None for found in findings],
            pa.string(),
        )
        for name, sign in SIGNS.items()
    }


class Counts:
    """Counts what became of rows, by rule too."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()

    def add(self, outcome: str, rules: Iterable[str], actions: Iterable[str]) -> None:
        """Counts a row.

        Args:
            outcome: What became of it.
            rules: Those that found something.
            actions: What each of them did.
        """
        self.outcomes[outcome] += 1
        for rule, action in zip(rules, actions, strict=True):
            if action == "drop":
                self.dropped[rule] += 1
            elif outcome != DROPPED:
                (self.changed if action == "change" else self.flagged)[rule] += 1

    def fields(self) -> dict[str, Any]:
        """The counts as the fields of a `Ledgered` record."""
        return {
            "rows": self.outcomes.total(),
            **{outcome: self.outcomes[outcome] for outcome in (KEPT, CHANGED, DROPPED)},
            "dropped_by_rule": dict(self.dropped),
            "changed_by_rule": dict(self.changed),
            "flagged_by_rule": dict(self.flagged),
        }
