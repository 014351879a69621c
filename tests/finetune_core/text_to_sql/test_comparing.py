"""When two results are the same."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import pytest

from finetune_core.text_to_sql.comparing import same
from finetune_core.text_to_sql.database import Result


@pytest.mark.parametrize(
    ("gold", "given", "equal"),
    [
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True),
        ([(1,), (1,)], [(1,)], False),  # rows count
        ([(1, "a")], [("a", 1)], False),  # columns have their order
        ([(1,)], [(1.0,)], True),
        ([(Decimal("1.10"),)], [(1.1,)], True),
        ([(True,)], [(1,)], True),
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(1.001,)], [(1.002,)], False),
        ([("1",)], [(1,)], False),
        ([(None,)], [("",)], False),
        ([(date(2026, 1, 2),)], [(datetime(2026, 1, 2),)], True),
        ([(date(2026, 1, 2),)], [("2026-01-02",)], True),
        ([], [], True),
        ([(1,)], [], False),
        ([([1, 2],)], [((1, 2),)], True),
    ],
)
def test_rows_are_compared_by_what_they_say(gold, given, equal):
    assert same(Result(gold, False), Result(given, False)) is equal


def test_the_order_counts_where_the_gold_asks_for_one():
    rows, turned = [(1,), (2,)], [(2,), (1,)]
    assert not same(Result(rows, True), Result(turned, True))
    assert same(Result(rows, True), Result(rows, False))
    assert same(Result(rows, False), Result(turned, True))
