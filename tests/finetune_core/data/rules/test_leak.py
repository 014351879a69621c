"""Leak: training rows that stand in the validation file, the same or nearly."""

from __future__ import annotations

import pytest

from finetune_core.data.rules.leak import Leak, NearLeak

WORDS = " ".join(f"word{n}" for n in range(200))


@pytest.mark.parametrize("action", ["drop", "flag"])
def test_a_held_out_row_is_found_in_training(turns, action):
    leak = Leak(action)
    assert leak.remember(1, turns("q")) is None
    assert leak.remember(2, turns("other")) is None
    assert leak.remember(3, turns("q")) is None
    detail = "the same as row 1 of the validation file"
    assert leak.check(1, turns(" q\n")) == (action, detail, None)


def test_training_rows_are_not_compared_with_each_other(turns):
    leak = Leak("drop")
    leak.remember(1, turns("q"))
    assert leak.check(1, turns("another")) is None
    assert leak.check(2, turns("another")) is None
    assert leak.check(3, turns("q", "another answer")) is None


def test_what_is_nearly_held_out_is_found(turns):
    leak = NearLeak("drop", 0.9)
    leak.remember(1, turns("something else"))
    leak.remember(2, turns(WORDS))
    verdict = leak.check(1, turns(f"{WORDS} more"))
    assert verdict.action == "drop"
    assert verdict.detail.endswith("% the same as row 2 of the validation file")
    assert leak.check(2, turns(WORDS.replace("word1", "other"))) is None
