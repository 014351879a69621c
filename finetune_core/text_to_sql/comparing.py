"""Whether two results say the same: execution accuracy's one question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from finetune_core.text_to_sql.database import Result

DIGITS = 9  # of a number that count: sums of floats depend on the order of the rows


def same(gold: Result, given: Result) -> bool:
    """Whether a result is the gold one.

    The same rows as often, with the same columns in the same order, whatever they are called; the
    order of the rows counts where the gold query asks for one.
    """
    expected, found = list(map(_row, gold.rows)), list(map(_row, given.rows))
    return expected == found if gold.ordered else Counter(expected) == Counter(found)


def _row(values: Iterable[Any]) -> tuple[Hashable, ...]:
    return tuple(map(_value, values))


def _value(value: Any) -> Hashable:
    """A value as it is compared: 1, 1.0, Decimal(1) and True are one number."""
    if isinstance(value, (bool, int, float, Decimal)):
        number = float(value)
        return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else str(number)
    if isinstance(value, datetime) and value.time() == time() and value.tzinfo is None:
        return value.date().isoformat()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return tuple(map(_value, value))
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    return value if isinstance(value, (str, type(None))) else str(value)
