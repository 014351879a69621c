"""Duplicate: equal but for white space and forms of Unicode."""

from __future__ import annotations

import pytest

from finetune_core.data.rules.content import fingerprint
from finetune_core.data.rules.duplicate import duplicate


@pytest.mark.parametrize("action", ["drop", "flag"])
@pytest.mark.parametrize("second", ["a  caf\u00e9", "\na caf\u00e9\t", "a cafe\u0301"])
def test_the_same_is_found_with_the_row_that_came_first(turns, action, second):
    check = duplicate(action)
    assert check(4, fingerprint(turns("a caf\u00e9"))) is None
    assert check(7, fingerprint(turns(second))) == (action, "the same as row 4", None)
    assert check(9, fingerprint(turns(second))) == (action, "the same as row 4", None)


@pytest.mark.parametrize("other", ["A b", "ab", "a b.", "a \uff42", "a\u00b2", ""])
def test_what_differs_is_let_alone(turns, other):
    check = duplicate("drop")
    assert check(1, fingerprint(turns("a b"))) is None
    assert check(2, fingerprint(turns(other))) is None
    assert check(3, fingerprint(turns("a b", "another answer"))) is None
