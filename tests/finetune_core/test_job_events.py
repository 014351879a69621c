"""What a job's events say, and that they are there for good."""

from __future__ import annotations

import pytest

from finetune_core.child import EventFile
from finetune_core.job_events import JobEvents
from finetune_core.types import Job, TokenizedData, TokenizedSplit


@pytest.fixture
def job(tmp_path):
    return Job(id="ftjob-1", name="orders", organization="acme", folder=tmp_path)


def told(job):
    return [event for event, _ in EventFile(job.events).read()]


def tokens(job, **counts):
    split = TokenizedSplit(rows=8, tokens=80, trained_tokens=40, longest=10, too_long=1)
    facts = {"rows": 10, "kept": 5, "changed": 3, "dropped": 2, "flagged_by_rule": {}, **counts}
    return TokenizedData(
        folder=job.folder,
        digest="d",
        tokenizer_digest="t",
        template="chat",
        train_split=split,
        validation_split=split,
        evaluation_split=None,
        **facts,
    )


def test_a_job_begins_once_and_then_goes_on(job):
    for _ in range(3):
        JobEvents(job).started()
    assert [event["name"] for event in told(job)] == ["began", "resumed", "resumed"]


def test_steps_are_metrics_and_keep_what_was_measured(job):
    step = {"step": 5, "total_steps": 12, "train_loss": 1.25, "learning_rate": 1e-3}
    events = JobEvents(job)
    events.hear({"type": "step", "time": 1.0, **step})
    events.hear({"type": "progress", "done": 3})
    (event,) = told(job)
    assert event["data"] == step
    assert (event["type"], event["level"], event["name"]) == ("metrics", "info", "step")
    assert event["message"] == "step 5/12: train_loss 1.2500"


def test_rows_that_are_dropped_or_cut_are_warned_of_by_rule_and_not_twice(job):
    record = tokens(
        job, dropped_by_rule={"duplicate": 2}, changed_by_rule={"too_long": 1, "encoding": 2}
    )
    for _ in range(2):
        JobEvents(job).stage_ended("tokenize", record, "80 tokens")
    warnings = [event for event in told(job) if event["level"] == "warn"]
    assert [(each["name"], each["data"]) for each in warnings] == [
        ("rows_dropped", {"rule": "duplicate", "rows": 2}),
        ("rows_cut", {"rule": "too_long", "rows": 1}),
    ]


def test_an_eased_training_is_a_warning_with_its_cause(job):
    event = {"type": "eased", "cause": "out of memory", "action": "4 rows at once"}
    JobEvents(job).hear(event)
    (found,) = told(job)
    assert (found["level"], found["message"]) == ("warn", "out of memory: 4 rows at once")
