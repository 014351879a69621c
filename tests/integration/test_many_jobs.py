"""Twenty jobs of three organisations at once, on two workers of one place each."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_core.child import EventFile
from tests.conftest import ROOT
from tests.integration.stack import need_postgresql, stack
from tests.integration.test_service import DATA, FINAL, QUICK, ROWS_A_STEP, Service
from tests.waiting import until

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]

JOBS = {"acme": 12, "other": 4, "third": 4}
LIMIT = 2  # of an organisation at once


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def service(request):
    if request.param == "postgresql":
        need_postgresql()
    with stack() as running:
        running.environment |= {
            "FINETUNE_ORGANIZATION_JOBS": str(LIMIT),
            "FINETUNE_WORKER_LIMIT": "1",
            "FINETUNE_SQLITE": str(request.param == "sqlite").lower(),
        }
        found = Service(running)
        found.keys["third"] = found._key("third")
        yield found


@pytest.fixture(scope="module")
def second_worker(service):
    """Another machine's, as it were: Prefect alone tells it what to do."""
    worker = next(
        each
        for each in service.stack.processes()
        if each.environ().get("SUPERVISOR_PROCESS_NAME") == "worker-cpu"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cpu", "--type", "process"]
        + ["--name", "second", "--limit", "1"],
        env=worker.environ(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield process
    process.terminate()
    process.wait(60)


def submit(service, organization) -> list[str]:
    client = service.client(organization)
    rows = (DATA / "train.jsonl").read_bytes().splitlines(keepends=True)[: 4 * ROWS_A_STEP]
    made = client.files.create(file=("train.jsonl", b"".join(rows)), purpose="fine-tune")
    return [
        client.fine_tuning.jobs.create(
            model="tiny",
            training_file=made.id,
            suffix=f"many-{number}",
            hyperparameters={"n_epochs": 1, "batch_size": ROWS_A_STEP},
            extra_body={"config": QUICK},
        ).id
        for number in range(JOBS[organization])
    ]


def test_all_complete_limits_are_kept_and_nobody_waits_for_another_organisations_many(
    service, second_worker, record_property
):
    with ThreadPoolExecutor(len(JOBS)) as pool:
        ids = dict(zip(JOBS, pool.map(lambda name: submit(service, name), JOBS), strict=True))

    def ended() -> bool:
        return all(
            job.status in FINAL
            for organization in JOBS
            for job in service.client(organization).fine_tuning.jobs.list(limit=100)
        )

    until(ended, "not all jobs end", 1500)
    times = []
    for organization, jobs in ids.items():
        client = service.client(organization)
        found = {job.id: job for job in client.fine_tuning.jobs.list(limit=100)}
        assert set(found) == set(jobs)
        assert {job.status for job in found.values()} == {"succeeded"}
        assert len({job.fine_tuned_model for job in found.values()}) == JOBS[organization]
        assert len(service.runs(organization)) == JOBS[organization]
        folder = service.stack.home / "organizations" / organization / "jobs"
        for job_id in jobs:
            told = [event for event, _ in EventFile(folder / job_id / "events.jsonl").read()]
            at = {event["name"]: event["time"] for event in told}
            times += [(at["began"], 1, organization), (at["succeeded"], -1, organization)]

    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, organization in sorted(times):
        running[organization] += change
        most[organization] = max(most[organization], running[organization])
        assert running.total() <= 2
    assert max(most.values()) <= LIMIT

    begun = [organization for _, change, organization in sorted(times) if change > 0]
    # Twelve of one organisation do not keep the others back: those have begun by turns.
    last = {name: len(begun) - begun[::-1].index(name) for name in JOBS}
    assert last["other"] <= 16, begun
    assert last["third"] <= 16, begun
    record_property("begun", " ".join(begun))
