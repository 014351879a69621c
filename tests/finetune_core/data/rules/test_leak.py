"""Leak: training rows that stand in a held-out file."""

from __future__ import annotations

import pytest

from finetune_core.data.rules.content import fingerprint
from finetune_core.data.rules.leak import Leak


@pytest.mark.parametrize("action", ["drop", "flag"])
@pytest.mark.parametrize("file", ["validation", "evaluation"])
def test_a_held_out_row_is_found_in_training(turns, action, file):
    leak = Leak(action)
    for number, prompt in enumerate(("q", "other", "q"), start=1):
        assert leak.remember(file, number, fingerprint(turns(prompt))) is None
    detail = f"the same as row 1 of the {file} file"
    assert leak.check(1, fingerprint(turns(" q\n"))) == (action, detail, None)


def test_of_two_files_the_first_is_named(turns):
    leak = Leak("drop")
    leak.remember("evaluation", 7, fingerprint(turns("q")))
    leak.remember("validation", 1, fingerprint(turns("q")))
    leak.remember("validation", 2, fingerprint(turns("p")))
    found = [leak.check(1, fingerprint(turns(prompt))).detail for prompt in "qp"]
    assert found == [
        "the same as row 7 of the evaluation file",
        "the same as row 2 of the validation file",
    ]


def test_training_rows_are_not_compared_with_each_other(turns):
    leak = Leak("drop")
    leak.remember("validation", 1, fingerprint(turns("q")))
    assert leak.check(1, fingerprint(turns("another"))) is None
    assert leak.check(2, fingerprint(turns("another"))) is None
    assert leak.check(3, fingerprint(turns("q", "another answer"))) is None
