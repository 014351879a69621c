"""Waiting for the end of a fine-tuning."""

from __future__ import annotations

import pytest

from finetune_core.exceptions import JobInterruptedError
from finetune_service.jobs.providers import follow, open_provider
from finetune_service.jobs.states import Status


def test_each_change_is_told_once(make, server):
    storage = make()
    model = open_provider(storage)
    model.create_fine_tuning_job()
    states = iter(["queued", "running", "running", "failed"])
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        server.jobs[0]["status"] = next(states)

    seen: list[Status] = []
    found = follow(model, lambda each: seen.append(each.status), 10, sleep=sleep)
    assert found.status is Status.FAILED
    assert [each.value for each in seen] == ["validating_files", "queued", "running", "failed"]
    assert all(7.5 <= each <= 12.5 for each in pauses)
    assert len(set(pauses)) > 1


def test_ctrl_c_leaves_the_job_running(make, server):
    storage = make()
    model = open_provider(storage)
    model.create_fine_tuning_job()

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(JobInterruptedError, match="its job goes on") as interrupted:
        follow(model, sleep=interrupt)
    assert storage.folder.name in str(interrupted.value)
    assert server.jobs[0]["status"] == "validating_files"
