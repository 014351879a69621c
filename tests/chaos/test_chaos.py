"""Faults while a job trains: the cheapest always, the others in the slow tier.

`python -m tests.chaos` strikes at random moments, and more often.
"""

from __future__ import annotations

import random

import pytest

from tests.chaos.experiment import disturbed, undisturbed
from tests.chaos.faults import FAULTS, known
from tests.chaos.lab import STEPS_AN_EPOCH, lab
from tests.integration.stack import need_postgresql
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)

EPOCHS = 3
CHEAP = ("trainer",)


@pytest.fixture(scope="module")
def running():
    need_postgresql()
    with lab() as found:
        yield found


@pytest.fixture(scope="module")
def digests(running):
    return undisturbed(running, EPOCHS)[0]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[] if name in CHEAP else pytest.mark.slow, id=name)
        for name in FAULTS
    ],
)
def test_a_job_comes_out_the_same(running, digests, fault):
    if fault not in known(running):
        pytest.skip("only root may mount a small disk")
    step = random.Random(fault).randrange(1, (EPOCHS - 1) * STEPS_AN_EPOCH)

    def trained(job):
        until(lambda: job.step() >= step or job.outcome(), f"step {step} is not reached", 200)

    result = disturbed(running, fault, fault, trained, epochs=EPOCHS, digests=digests)
    assert result.hit
    assert result.complaints == [], result.kept
