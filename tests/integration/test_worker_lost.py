"""Runs whose process or machine is lost: seen as dead, started again, and never twice at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from finetune_core.child import EventFile
from finetune_service.stack.processes import job_of
from tests.integration.test_service import FINAL, client, create, files, reached, service, trained

__all__ = ["client", "create", "files", "service"]  # fixtures

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

SEEN_SECONDS = 120  # within which a lost machine is seen


@pytest.fixture(scope="module")
def adapter(service, client, create):
    """The digest of the adapter of a job that nothing happened to."""
    return digest(service, reached(client, create(long=True).id, *FINAL).id)


def folder(service, job_id) -> Path:
    return service.stack.home / "organizations" / "acme" / "jobs" / job_id


def digest(service, job_id) -> dict[str, str]:
    return json.loads((folder(service, job_id) / "adapter" / "manifest.json").read_text())["files"]


def events(service, job_id) -> list[dict]:
    return [event for event, _ in EventFile(folder(service, job_id) / "events.jsonl").read()]


def processes(service, client, job_id) -> list[psutil.Process]:
    """Those of a job, its flow's first."""
    known = json.loads((folder(service, job_id) / "job.json").read_text())["flow_run_id"]
    return [each for each in service.stack.processes() if job_of(each) == known]


def send(number, those) -> None:
    for process in those:
        os.kill(process.pid, number)


def went_on(service, job_id, adapter) -> None:
    """It was started again, went on from its last checkpoint, and came out the same."""
    told = events(service, job_id)
    restarted = [at for at, event in enumerate(told) if event["name"] == "restarted"]
    assert len(restarted) == 1
    saved = max(e["data"]["step"] for e in told[: restarted[0]] if e["name"] == "checkpoint")
    steps = [e["data"]["step"] for e in told[restarted[0] :] if e["name"] == "step"]
    assert steps == list(range(saved + 1, max(steps) + 1))
    assert [e["name"] for e in told].count("succeeded") == 1
    assert digest(service, job_id) == adapter


def test_a_killed_flow_is_started_again_within_a_minute(service, client, create, adapter):
    job = create(long=True)
    trained(client, job.id, 0.2)
    began = time.time()
    send(signal.SIGKILL, processes(service, client, job.id)[:1])
    reached(client, job.id, "queued", seconds=30)
    reached(client, job.id, "running", seconds=60)
    assert time.time() - began < 60
    reached(client, job.id, "succeeded")
    went_on(service, job.id, adapter)


def test_a_lost_worker_s_job_goes_on(service, client, create, adapter):
    """Nobody is left on the machine who could say that the run has ended: its silence does."""
    job = create(long=True)
    trained(client, job.id, 0.2)
    worker = service.stack.parts()["worker-cpu"]["pid"]
    family = [psutil.Process(worker), *psutil.Process(worker).children(recursive=True)]
    began = time.time()
    send(signal.SIGKILL, family)
    reached(client, job.id, "queued", seconds=SEEN_SECONDS + 30)
    seen = time.time() - began
    reached(client, job.id, "succeeded")
    went_on(service, job.id, adapter)
    assert seen < SEEN_SECONDS, seen


def test_a_run_that_was_taken_for_dead_and_comes_back_does_no_harm(
    service, client, create, adapter
):
    job = create(long=True)
    trained(client, job.id, 0.2)
    stopped = processes(service, client, job.id)
    send(signal.SIGSTOP, stopped)
    reached(client, job.id, "queued", seconds=SEEN_SECONDS + 30)
    # The next attempt finds it on its machine, wakes it, and it gives up.
    reached(client, job.id, "succeeded")
    psutil.wait_procs(stopped, timeout=60)
    assert not any(process.is_running() for process in stopped)
    went_on(service, job.id, adapter)
    assert sorted(each.name for each in (folder(service, job.id) / "control").iterdir()) == [
        "attempt-1",
        "attempt-2",
    ]
