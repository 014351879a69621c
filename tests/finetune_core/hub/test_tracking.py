"""Tracking tells the hub everything, in order, nothing twice, and never stands in the way."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_core.child import EventFile
from finetune_core.config import PipelineConfig
from finetune_core.data.report import DataReport, Lengths, Piece
from finetune_core.exceptions import HubUnavailableError
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.tracking import Tracking
from finetune_core.storage import write_json
from finetune_core.types import (
    CleanData,
    EvaluationReport,
    Job,
    TokenizedData,
    TokenizedSplit,
    TrainedCheckpoints,
)

CONFIG = PipelineConfig.parse({"dataset": {"path": "rows.jsonl"}, "training": {"epochs": 2}})


@pytest.fixture
def job(tmp_path):
    job = Job(id="ftjob-1", name="my-model", organization="acme", folder=tmp_path / "job")
    job.logs.mkdir(parents=True)
    CONFIG.to_yaml(job.folder / "config.yaml")
    return job


@pytest.fixture
def train(job):
    """The training's side: it measures a loss at each of these steps."""

    def train(*steps):
        for step in steps:
            event = {"type": "step", "step": step, "train_loss": 1 / step, "total_steps": 9}
            EventFile(job.logs / "train-events.jsonl").append(event)

    return train


@pytest.fixture
def trained(tmp_path):
    return TrainedCheckpoints(
        folder=tmp_path,
        seconds=1.5,
        steps=6,
        epochs=2.0,
        train_loss=0.5,
        trained_tokens=10,
        parameters=100,
        trained_parameters=10,
        batch_size=8,
        precision="float32",
        device="cpu",
    )


COUNTS = {
    "rows": 10,
    "kept": 7,
    "changed": 1,
    "changed_by_rule": {"unicode": 1},
    "flagged_by_rule": {},
}


REPORT = {
    "rows": 10,
    "kept": 6,
    "changed": 1,
    "dropped": 3,
    "formats": ["chat"],
    "rules": {"empty": {"dropped": 2, "changed": 0, "flagged": 0}},
    "train_rows": 6,
    "validation_rows": 1,
    "evaluation_rows": 0,
    "template": "chat",
    "verdict": "doubtful",
    "reasons": ["3 of 10 rows dropped"],
}


@pytest.fixture
def clean(tmp_path):
    return CleanData(
        folder=tmp_path / "clean",
        source_digest="0123",
        digest="4567",
        format="chat",
        dropped=2,
        dropped_by_rule={"empty": 2},
        train_rows=7,
        validation_rows=1,
        evaluation_rows=0,
        warnings=[],
        **COUNTS,
    )


@pytest.fixture
def tokens(tmp_path):
    split = TokenizedSplit(rows=6, tokens=60, trained_tokens=20, longest=12, too_long=1)
    tokens = TokenizedData(
        folder=tmp_path,
        digest="d",
        tokenizer_digest="t",
        template="chat",
        train_split=split,
        validation_split=split.model_copy(update={"rows": 1, "tokens": 9, "too_long": 0}),
        evaluation_split=None,
        dropped=3,
        dropped_by_rule={"empty": 2, "too_long": 1},
        **COUNTS | {"kept": 6},
    )
    pq.write_table(pa.table({"row": [1, 2]}), tokens.ledger)
    found = DataReport(
        **REPORT,
        tokens=Lengths(
            total=69, trained=23, median=9, p90=12, p99=12, longest=12, too_long=1, limit=64,
            histogram=[1, 6],
        ),
        samples=[[Piece(text="asked", trained=False), Piece(text="answered", trained=True)]],
    )  # fmt: skip
    write_json(tokens.report, found.model_dump(mode="json"))
    return tokens


@pytest.fixture
def report(tmp_path):
    report = EvaluationReport(
        folder=tmp_path, rows=1, generated_rows=1, base={"loss": 2.0}, tuned={"loss": 1.0}
    )
    report.markdown.write_text("# Evaluation")
    report.samples.write_text(json.dumps({"row": 1, "base": "x", "tuned": "y"}) + "\n")
    return report


@pytest.fixture
def tell_all(clean, tokens, trained, report):
    def tell_all(tracking):
        tracking.tell_config(CONFIG)
        tracking.tell_data(CONFIG, clean, tokens)
        tracking.tell_training(trained)
        tracking.tell_report(report)

    return tell_all


def told_steps(hub):
    (run,) = hub.runs.values()
    return [(point.step, point.value) for point in run.points if point.name == "train_loss"]


def steps(*numbers):
    return [(number, 1 / number) for number in numbers]


def test_a_job_is_one_run_in_every_process(job):
    hub = MemoryHub()
    assert Tracking(hub, job).run_id() == Tracking(hub, job).run_id()
    (run,) = hub.runs.values()
    assert run.name == "my-model"
    assert run.tags == {"job_id": "ftjob-1", "organization": "acme"}


def test_everything_that_is_told_arrives(job, train, tokens, tell_all):
    hub = MemoryHub()
    tracking = Tracking(hub, job)
    train(1, 2)
    tell_all(tracking)
    tracking.end("FINISHED")
    (run,) = hub.runs.values()
    assert run.status == "FINISHED"
    assert told_steps(hub) == steps(1, 2)
    assert run.params["training.epochs"] == "2"
    assert run.params["data.rows"] == "10"
    assert [run.params[f"data.{name}"] for name in ("kept", "changed", "dropped")] == list("613")
    assert run.params["data.validation_rows_too_long"] == "0"
    assert "data.evaluation_rows" not in run.params
    assert run.params["data.train_tokens"] == "60"
    assert run.params["data.train_rows_too_long"] == "1"
    assert run.params["model.trained_parameters"] == "10"
    assert {(point.name, point.value) for point in run.points} >= {
        ("base_loss", 2.0),
        ("loss", 1.0),
        ("trained_tokens", 10.0),
        ("train_seconds", 1.5),
    }
    assert set(run.files) == {
        "config.yaml",
        "data/ledger.parquet",
        "data/data.html",
        "loss_curve.png",
        "report.md",
    }
    assert run.files["data/ledger.parquet"] == tokens.ledger.read_bytes()
    page = run.files["data/data.html"].decode()
    assert "<mark>answered</mark>" in page
    assert "rows.jsonl: doubtful: 3 of 10 rows dropped" in page
    assert run.files["config.yaml"] == (job.folder / "config.yaml").read_bytes()
    assert run.files["loss_curve.png"].startswith(b"\x89PNG")
    assert run.tables == {"samples.json": [{"row": 1, "base": "x", "tuned": "y"}]}
    assert [each["digest"] for each in run.datasets] == ["0123"]


def test_an_evaluation_files_counts_are_told_too(job, clean, tokens):
    hub = MemoryHub()
    measured = tokens.validation_split.model_copy(update={"rows": 4, "tokens": 44})
    tokens = tokens.model_copy(update={"evaluation_split": measured})
    Tracking(hub, job).tell_data(CONFIG, clean, tokens)
    (run,) = hub.runs.values()
    assert run.params["data.evaluation_rows"] == "4"
    assert run.params["data.evaluation_tokens"] == "44"


def counts(hub):
    (run,) = hub.runs.values()
    return len(run.points), len(run.datasets), len(run.params)


def test_what_is_told_again_arrives_once(job, train, tell_all):
    hub = MemoryHub()
    tracking = Tracking(hub, job)
    train(1, 2)
    tell_all(tracking)
    before = counts(hub)
    tell_all(tracking)
    tell_all(Tracking(hub, job))  # as after a kill
    assert counts(hub) == before


def test_steps_are_told_while_the_training_goes_on(job, train):
    hub = MemoryHub()
    tracking = Tracking(hub, job)
    train(1, 2)
    tracking.tell_event({"type": "step"})
    assert told_steps(hub) == steps(1, 2)


def test_the_last_steps_of_a_training_that_is_ended_are_told(job, train):
    hub = MemoryHub()
    tracking = Tracking(hub, job)
    train(1)
    tracking.tell_event({"type": "step"})
    train(2, 3)
    tracking.tell_event({"type": "step"})  # too soon after the one before
    assert told_steps(hub) == steps(1)
    tracking.end("KILLED")
    assert told_steps(hub) == steps(1, 2, 3)


def test_a_hub_that_is_away_does_not_stop_a_job_and_misses_nothing(job, train, tell_all):
    hub = MemoryHub()
    hub.away = True
    tracking = Tracking(hub, job)
    train(1, 2, 3)
    tracking.tell_event({"type": "step"})
    with tracking.system_metrics():
        train(4)
    tell_all(tracking)
    tracking.end("FAILED")
    assert hub.runs == {}
    hub.away = False
    tracking.insist()
    tell_all(tracking)
    there = MemoryHub()
    tell_all(Tracking(there, job.model_copy(update={"folder": copy_of(job)})))
    assert told_steps(hub) == steps(1, 2, 3, 4)
    assert counts(hub) == counts(there)


def copy_of(job):
    """A folder of the same job in which nothing has been told yet."""
    folder = job.folder.with_name("untold")
    (folder / "logs").mkdir(parents=True)
    for name in ("config.yaml", "logs/train-events.jsonl"):
        (folder / name).write_bytes((job.folder / name).read_bytes())
    return folder


@pytest.mark.parametrize("killed", [False, True], ids=["same process", "another process"])
def test_a_hub_that_goes_away_in_between_gets_the_rest_in_order(job, train, trained, killed):
    hub = MemoryHub()
    tracking = Tracking(hub, job)
    train(1, 2)
    tracking.tell_event({"type": "step"})
    hub.away = True
    train(3, 4)
    tracking.tell_training(trained)
    hub.away = False
    train(5)
    if killed:
        tracking = Tracking(hub, job)
    tracking.insist()
    tracking.tell_training(trained)
    assert told_steps(hub) == steps(1, 2, 3, 4, 5)


def test_a_half_written_event_is_told_when_it_is_whole(job, train, trained):
    hub = MemoryHub()
    train(1)
    file = job.logs / "train-events.jsonl"
    whole = file.read_bytes()
    train(2)
    both = file.read_bytes()
    file.write_bytes(both[:-10])
    Tracking(hub, job).tell_training(trained)
    assert told_steps(hub) == steps(1)
    file.write_bytes(both)
    Tracking(hub, job).tell_training(trained)
    assert told_steps(hub) == steps(1, 2)
    assert both.startswith(whole)


class GoesAway(MemoryHub):
    """Goes away at the first file."""

    def log_file(self, run_id, path, folder=None):
        if not self.away and not self.runs[run_id].files:
            self.runs[run_id].files["marker"] = b""
            raise HubUnavailableError("gone")
        super().log_file(run_id, path, folder)


def test_a_fact_that_broke_off_in_the_middle_is_told_once(job, train, trained):
    hub = GoesAway()
    tracking = Tracking(hub, job)
    train(1)
    tracking.tell_training(trained)
    tracking.insist()
    tracking.tell_training(trained)
    (run,) = hub.runs.values()
    assert "loss_curve.png" in run.files
    assert [point.name for point in run.points].count("train_seconds") == 1


def test_a_hub_that_is_away_is_left_in_peace_for_a_while(job, train, trained):
    class Counting(MemoryHub):
        asked = 0

        def find_run(self, tag, value):
            self.asked += 1
            return super().find_run(tag, value)

    hub = Counting()
    hub.away = True
    train(1)
    for _ in range(3):  # each stage makes a tracking of its own
        Tracking(hub, job).tell_training(trained)
    assert hub.asked == 1


def test_a_run_whose_id_was_not_written_down_is_found_again(job):
    """As where a machine is lost between the two."""
    hub = MemoryHub()
    first = Tracking(hub, job).run_id()
    (job.folder / "tracking" / "run_id").unlink()
    assert Tracking(hub, job).run_id() == first
    assert len(hub.runs) == 1
