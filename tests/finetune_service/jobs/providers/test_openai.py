"""Jobs elsewhere: each made once, whatever is lost or killed; metrics told to MLflow once."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys

import mlflow
import pytest

from finetune_core.exceptions import DatasetFormatError
from finetune_core.hub import open_hub
from finetune_service.jobs.providers import FinetuningStorage, open_provider
from finetune_service.jobs.providers.openai import OpenaiModel
from finetune_service.jobs.providers.results import tell
from finetune_service.jobs.states import Status
from finetune_service.sdk.exceptions import ApiError
from tests.conftest import ROOT
from tests.finetune_service.jobs.providers.conftest import FILES, JOBS, SECRET, Waits
from tests.waiting import until

TABLE = (
    b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
    b"1,2.5,0.25,,\n"
    b"2,1.5,0.5,1.75,0.375\n"
    b"3,nan,0.625,,\n"
)
POINTS = {
    "train_loss": [(1, 2.5), (2, 1.5)],
    "train_token_accuracy": [(1, 0.25), (2, 0.5), (3, 0.625)],
    "valid_loss": [(2, 1.75)],
    "valid_token_accuracy": [(2, 0.375)],
}


class TestCreate:
    def test_what_is_sent(self, make, server, rows, tmp_path, caplog):
        held_out = tmp_path / "held_out.jsonl"
        held_out.write_bytes(rows.read_bytes())
        storage = make(
            config={
                "dataset": {"path": str(rows), "validation_path": str(held_out)},
                "training": {"epochs": 3, "seed": 5, "learning_rate": 1e-3},
            },
            suffix="orders",
            extra_body={"config": {"evaluation": {"num_samples": 2}}},
        )
        made = open_provider(storage).create_fine_tuning_job()
        (asked,) = server.made(JOBS)
        assert asked.json == {
            "model": "gpt-4o-mini",
            "training_file": "file-1",
            "validation_file": "file-2",
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}},
            },
            "seed": 5,
            "suffix": "orders",
            "metadata": {"finetuning": made.id},
            "config": {"evaluation": {"num_samples": 2}},
        }
        assert asked.headers["idempotency-key"] == made.id
        assert asked.headers["authorization"] == f"Bearer {SECRET}"
        assert [each["bytes"] for each in server.files] == [rows.stat().st_size] * 2
        assert (made.file_id, made.validation_file_id) == ("file-1", "file-2")
        assert "learning_rate 0.001 is not sent" in caplog.text

    @pytest.mark.parametrize("path", [FILES, JOBS])
    def test_a_lost_answer_makes_no_second_one(self, make, server, waits, path):
        lost = iter([True])
        server.after_making = lambda asked: asked.path == path and next(lost, False)
        made = OpenaiModel(make(), sleep=waits).create_fine_tuning_job()
        assert (len(server.files), len(server.jobs)) == (1, 1)
        assert (made.file_id, made.job_id) == ("file-1", "ftjob-1")
        assert len(waits) == 1

    @pytest.mark.parametrize("path", [FILES, JOBS])
    def test_killed_before_it_was_written_down_there_is_no_second_one(self, make, server, path):
        storage = make()
        process: list[subprocess.Popen[bytes]] = []

        def kill(asked) -> bool:
            if asked.path != path:
                return False
            until(lambda: process, "nobody has asked")
            process[0].send_signal(signal.SIGKILL)
            process[0].wait(10)
            return True

        server.after_making = kill
        code = (
            "import sys; from pathlib import Path\n"
            "from finetune_service.jobs.providers import FinetuningStorage, open_provider\n"
            "open_provider(FinetuningStorage(Path(sys.argv[1]))).create_fine_tuning_job()\n"
        )
        command = [sys.executable, "-c", code, str(storage.folder)]
        process.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ}))
        assert process[0].wait(60) == -signal.SIGKILL
        known = storage.read()
        assert (known.file_id if path == FILES else known.job_id) is None

        server.after_making = lambda _: False
        made = open_provider(storage).create_fine_tuning_job()
        assert (len(server.files), len(server.jobs)) == (1, 1)
        assert (made.file_id, made.job_id) == ("file-1", "ftjob-1")

    def test_one_that_nobody_wrote_down_is_cancelled_all_the_same(self, make, server):
        storage = make()
        open_provider(storage).create_fine_tuning_job()
        storage.change(job_id=None, status=Status.VALIDATING_FILES)
        cancelled = open_provider(storage).cancel_finetuning_job()
        assert (cancelled.status, cancelled.job_id) == (Status.CANCELLED, "ftjob-1")
        assert server.jobs[0]["status"] == "cancelled"

    def test_a_lost_answer_cancels_it_once(self, make, server, waits):
        model = OpenaiModel(make(), sleep=waits)
        model.create_fine_tuning_job()
        lost = iter([True])
        server.after_making = lambda _: next(lost, False)
        assert model.cancel_finetuning_job().status is Status.CANCELLED
        assert len(server.made("/v1/fine_tuning/jobs/ftjob-1/cancel")) == 1

    def test_it_waits_until_the_file_is_looked_through(self, make, server):
        server.file_status = ("uploaded", None)
        pauses = Waits()

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                server.files[0]["status"] = "processed"

        OpenaiModel(make(), sleep=sleep).create_fine_tuning_job()
        assert len(server.jobs) == 1
        assert [1.5 <= each <= 2.5 for each in pauses] == [True] * 3

    def test_a_refused_file_says_why(self, make, server, rows):
        storage = make()
        model = open_provider(storage)
        server.file_status = ("error", "row 3: messages: has no answer")
        with pytest.raises(DatasetFormatError, match=r"refuses .*rows\.jsonl: row 3: messages"):
            model.create_fine_tuning_job()
        failed = model.retrieve_finetuning_job()
        assert failed.status is Status.FAILED
        assert str(rows) in failed.error
        assert model.create_fine_tuning_job() == failed
        assert server.jobs == []


class TestRetrieve:
    @pytest.fixture
    def storage(self, make):
        storage = make()
        open_provider(storage).create_fine_tuning_job()
        return storage

    @pytest.mark.parametrize("status", [each for each in Status if each is not Status.SUCCEEDED])
    def test_every_state_is_ours(self, storage, server, status):
        server.jobs[0]["status"] = status.value
        found = open_provider(storage).retrieve_finetuning_job()
        assert found.status is status
        assert found.at_rest == (status.value in ("paused", "failed", "cancelled"))
        assert found.error == ("The server does not say why." if status.value == "failed" else None)

    def test_a_state_that_nobody_knows(self, storage, server):
        server.jobs[0]["status"] = "dreaming"
        with pytest.raises(ApiError, match="ftjob-1 is dreaming"):
            open_provider(storage).retrieve_finetuning_job()

    @pytest.mark.parametrize("results", [TABLE, base64.b64encode(TABLE), base64.encodebytes(TABLE)])
    def test_its_metrics_go_to_mlflow_once(self, storage, server, results):
        server.results = results
        server.finish()
        model = open_provider(storage)
        found = model.retrieve_finetuning_job()
        assert found.status is Status.SUCCEEDED
        assert (found.fine_tuned_model, found.trained_tokens) == ("ft:base:org:orders:1", 512)
        assert found.metrics == {
            "train_loss": 1.5,
            "train_token_accuracy": 0.625,
            "valid_loss": 1.75,
            "valid_token_accuracy": 0.375,
        }
        asked = len(server.asked)
        assert model.retrieve_finetuning_job() == found
        assert len(server.asked) == asked  # a job that has ended does not change
        # As if the process had been killed before it wrote down that all is told.
        storage.change(run_id=None)
        assert model.retrieve_finetuning_job() == found
        assert tell(open_hub("local"), found, storage.results) == found.run_id

        client = mlflow.MlflowClient(_tracking_uri())
        (experiment,) = client.search_experiments(filter_string="name = 'local'")
        (run,) = client.search_runs([experiment.experiment_id])
        assert (run.info.run_id, run.info.status) == (found.run_id, "FINISHED")
        assert run.data.tags["finetuning_id"] == found.id
        assert run.data.params == {
            "model.name": "gpt-4o-mini",
            "fine_tuned_model": "ft:base:org:orders:1",
            "training_file": "file-1",
            "trained_tokens": "512",
        }
        points = {
            name: [
                (each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
        }
        assert points == POINTS

    def test_while_the_hub_is_away_nothing_is_lost(self, storage, server, monkeypatch, caplog):
        server.results = TABLE
        server.finish()
        model = open_provider(storage)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            found = model.retrieve_finetuning_job()
        assert (found.status, found.run_id) == (Status.SUCCEEDED, None)
        assert found.metrics["train_loss"] == 1.5
        assert "is not tracked for now" in caplog.text
        assert model.retrieve_finetuning_job().run_id

    @pytest.mark.parametrize("results", [b"", b"<html>", b"\xff\xfe", base64.b64encode(b"no")])
    def test_a_result_file_that_is_none(self, storage, server, results):
        server.results = results
        server.finish()
        with pytest.raises(ApiError, match="is no table of metrics"):
            open_provider(storage).retrieve_finetuning_job()
        assert not storage.results.exists()

    def test_who_is_told_elsewhere_is_not_told_here(self, storage, server, monkeypatch):
        monkeypatch.setattr("finetune_service.jobs.providers.storage.LOCK_SECONDS", 0.1)
        server.results = TABLE
        server.finish()
        with FinetuningStorage(storage.folder).locked():
            found = open_provider(storage).retrieve_finetuning_job()
        assert (found.status, found.run_id) == (Status.SUCCEEDED, None)

    def test_a_result_file_that_is_late(self, storage, server):
        server.results = TABLE
        server.finish(result_files=[])
        model = open_provider(storage)
        assert model.retrieve_finetuning_job().metrics == {}
        server.finish()
        assert model.retrieve_finetuning_job().metrics["valid_loss"] == 1.75


def _tracking_uri() -> str:
    return f"sqlite:///{os.environ['FINETUNE_HOME']}/organizations/local/mlflow/mlflow.db"
