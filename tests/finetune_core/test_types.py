"""Job ids and records."""

from __future__ import annotations

import re
import time
import uuid
from datetime import datetime, timezone

import pytest
from pydantic import ValidationError

from finetune_core.types import EvaluationReport, Job, job_id_of, new_job_id

JOB_ID = re.compile(r"ftjob-[0-9a-hjkmnp-tv-z]{24}")  # base 32 without i, l, o and u


def test_a_job_id_is_ftjob_and_24_characters():
    assert JOB_ID.fullmatch(new_job_id())


def test_job_ids_are_unique():
    assert len({new_job_id() for _ in range(10_000)}) == 10_000


def test_a_flow_runs_job_has_one_id_that_sorts_by_time(monkeypatch):
    run, created = uuid.uuid4(), datetime(2026, 1, 2, tzinfo=timezone.utc)
    found = job_id_of(run, created)
    assert JOB_ID.fullmatch(found)
    assert job_id_of(run, created) == found != job_id_of(uuid.uuid4(), created)
    monkeypatch.setattr(time, "time_ns", lambda: int((created.timestamp() + 1) * 10**9))
    assert found < new_job_id()


def test_job_ids_sort_by_time(monkeypatch):
    times = [0, 10**6, 31 * 10**6, 32 * 10**6, 10**18, 1_799_999_999 * 10**9, 2**47 * 10**6]
    ids = []
    for now in times:
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        ids.append(new_job_id())
    assert ids == sorted(ids)
    assert all(JOB_ID.fullmatch(each) for each in ids)


def test_records_are_frozen_and_know_their_fields(tmp_path):
    job = Job(id="ftjob-1", name="n", organization="o", folder=tmp_path)
    with pytest.raises(ValidationError):
        job.name = "other"
    with pytest.raises(ValidationError):
        Job(id="ftjob-1", name="n", organization="o", folder=tmp_path, colour="red")


def test_samples_are_read_line_by_line(tmp_path):
    report = EvaluationReport(folder=tmp_path, rows=2, generated_rows=2, base={}, tuned={})
    report.samples.write_text('{"row": 1, "expected": "ä"}\n{"row": 2, "expected": ""}\n')
    assert report.read_samples() == [{"row": 1, "expected": "ä"}, {"row": 2, "expected": ""}]
