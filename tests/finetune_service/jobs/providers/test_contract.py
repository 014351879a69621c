"""What holds of every provider: a job is made once, found again and cancelled."""

from __future__ import annotations

import pytest

from finetune_core.exceptions import DatasetNotFoundError, InputError, JobInUseError
from finetune_service.exceptions import ConflictError
from finetune_service.jobs.providers import (
    PROVIDERS,
    Finetuning,
    FinetuningStorage,
    follow,
    open_provider,
)
from finetune_service.jobs.providers.openai import OpenaiModel
from finetune_service.jobs.states import Status


def test_the_registry_tells_what_there_is(make):
    assert list(PROVIDERS) == ["local", "openai"]
    assert PROVIDERS["openai"].needs == ("OPENAI_API_KEY",)
    assert type(open_provider(make())) is OpenaiModel
    with pytest.raises(InputError, match=r"no 'azure'; there are local, openai"):
        open_provider(make("azure"))


@pytest.fixture(params=[*PROVIDERS])
def storage(make, request):
    return make(request.param)


@pytest.fixture
def jobs(storage, server, tmp_path):
    """Counts the jobs that there are."""
    if storage.request.provider == "openai":
        return lambda: len(server.jobs)
    return lambda: len([*(tmp_path / "home/organizations/local/jobs").glob("ftjob-*")])


def test_a_job_is_made_once_and_cancelled(storage, jobs):
    model = open_provider(storage)
    assert model.create_finetuning_dataset() == model.create_finetuning_dataset()
    made = model.create_fine_tuning_job()
    assert made.id == storage.folder.name
    assert made.job_id
    assert made.status in (Status.VALIDATING_FILES, Status.QUEUED, Status.RUNNING)
    assert (made.error, made.fine_tuned_model, made.metrics) == (None, None, {})

    again = open_provider(FinetuningStorage(storage.folder))
    assert again.create_fine_tuning_job().job_id == made.job_id
    assert again.retrieve_finetuning_job().job_id == made.job_id
    assert jobs() == 1

    cancelled = again.cancel_finetuning_job()
    assert cancelled.status is Status.CANCELLED
    assert model.cancel_finetuning_job() == cancelled
    assert model.create_fine_tuning_job() == cancelled
    seen: list[Finetuning] = []
    assert follow(model, seen.append) == cancelled
    assert seen == [cancelled]
    assert jobs() == 1


def test_cancelled_before_there_is_a_job_there_is_none(storage, jobs):
    model = open_provider(storage)
    with pytest.raises(ConflictError, match="has no job yet"):
        follow(model)
    cancelled = model.cancel_finetuning_job()
    assert (cancelled.status, cancelled.job_id) == (Status.CANCELLED, None)
    assert model.create_fine_tuning_job() == cancelled
    assert model.retrieve_finetuning_job() == cancelled
    assert jobs() == 0


def test_one_that_has_ended_otherwise_is_not_cancelled(storage):
    storage.change(status=Status.FAILED, error="it was refused")
    with pytest.raises(ConflictError, match="is failed, so it cannot cancel"):
        open_provider(storage).cancel_finetuning_job()


def test_a_missing_dataset_is_said_before_there_is_a_job(storage, rows, jobs):
    rows.unlink()
    with pytest.raises(DatasetNotFoundError, match=r"rows\.jsonl"):
        open_provider(storage).create_fine_tuning_job()
    assert jobs() == 0


def test_two_processes_do_not_make_it_together(storage, jobs, monkeypatch):
    monkeypatch.setattr("finetune_service.jobs.providers.storage.LOCK_SECONDS", 0.1)
    with (
        FinetuningStorage(storage.folder).locked(),
        pytest.raises(JobInUseError, match="another process works on"),
    ):
        open_provider(storage).create_fine_tuning_job()
    assert jobs() == 0
