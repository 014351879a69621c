"""What a flow run's state means for its job."""

from __future__ import annotations

import time

import pytest

from finetune_service.jobs.scheduler import CLAIM_SECONDS, RunState


@pytest.mark.parametrize(
    ("kind", "age", "placed", "lost"),
    [
        ("CRASHED", 0, False, True),
        ("PENDING", CLAIM_SECONDS - 5, False, False),
        ("PENDING", CLAIM_SECONDS + 5, False, True),
        ("PENDING", CLAIM_SECONDS + 5, True, False),  # a pod may wait long for its machine
        ("RUNNING", 10 * CLAIM_SECONDS, False, False),  # its heartbeat tells
        ("SCHEDULED", 10 * CLAIM_SECONDS, False, False),
        ("FAILED", 0, False, False),
    ],
)
def test_which_runs_are_lost(kind, age, placed, lost):
    assert RunState(kind, time.time() - age, None, placed).is_lost is lost
