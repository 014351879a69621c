"""The table of failures: the docs have it as it is, and each policy is proved by a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from finetune_core.failures import CRASHED, FAILURES, WORKER_LOST, table

DOCS = Path("docs/reliability.md")


def test_the_docs_table_is_the_one_of_the_code():
    found = next(block for block in DOCS.read_text().split("\n\n") if block.startswith("|"))
    assert found == table(), f"put into {DOCS} what failures.table() gives"


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_each_policy_is_proved_by_a_test_that_exists(failure):
    file, _, name = failure.proof.partition("::")
    tree = ast.parse(Path(file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_policy_has_a_name_of_its_own_and_a_limit():
    assert len({failure.name for failure in FAILURES}) == len(FAILURES)
    assert all(failure.limit or failure.backoff for failure in FAILURES)


def test_how_a_row_reads():
    assert CRASHED.row()[3:6] == ("2 times", "2, 30 s", "retried")
    assert WORKER_LOST.row()[3:6] == (
        "5 times in a row without a new checkpoint; then the job fails",
        "20, 30, 60, 120, 300 s",
        "restarted",
    )
