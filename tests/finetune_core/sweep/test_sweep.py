"""A sweep's folder, its trials by what their jobs have left, and what the hub is told of them."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from finetune_core.child import EventFile
from finetune_core.config import PipelineConfig, Settings
from finetune_core.exceptions import (
    DamagedFolderError,
    IncompatibleConfigError,
    InvalidConfigError,
    JobInUseError,
    JobNotFoundError,
)
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import PARENT_RUN
from finetune_core.hub.tracking import Tracking
from finetune_core.sweep.best import find_card
from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.study import State
from finetune_core.sweep.sweep import find_sweep, working_on_sweep
from finetune_core.sweep.tracking import SweepTracking
from finetune_core.sweep.trials import SweepResult, cells, head, markdown, said
from finetune_core.sweep.watching import Watch, watching
from finetune_core.types import RegisteredVersion

CONFIG = PipelineConfig.parse(
    {
        "dataset": {"path": "examples/data/train.jsonl"},
        "training": {"epochs": 2},
        "registry": {"model_name": "orders"},
    }
)
RATE = "training.learning_rate"
TRIES = {"space": {RATE: [1e-3, 1e-4, 1e-6]}, "sampler": "grid", "prune_after_trials": 1}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))


def opening(sweep_id="sweep-1", config=CONFIG, organization="local", **fields):
    tries = SweepConfig.parse({**TRIES, **fields})
    return working_on_sweep(config, tries, organization, sweep_id)


@pytest.fixture
def sweep():
    with opening() as sweep:
        yield sweep


def says(job, name, **data):
    EventFile(job.events).append({"name": name, "data": data})


def validates(job, epoch, loss):
    says(job, "validation", step=1, epoch=epoch, valid_loss=loss)


def ends(job, status="succeeded", **facts):
    job.outcome.write_text(json.dumps({"status": status, **facts}))


def succeeds(job, loss, version=1):
    ends(job, registered={"version": version}, metrics={"loss": loss, "exact_match": 0.5})


class TestFolder:
    def test_a_trials_job_is_always_the_same_and_no_other_sweeps(self, sweep):
        ids = [sweep.job(number).id for number in range(3)]
        with opening("sweep-2") as other:
            assert other.job(0).id not in ids
        assert len(set(ids)) == 3
        assert ids == sorted(ids)
        assert [sweep.job(number).id for number in range(3)] == ids

    def test_a_trials_folder_is_made_before_its_job_begins(self, sweep):
        trial = next(sweep.due())
        config = PipelineConfig.from_yaml(sweep.job(trial.number).folder / "config.yaml")
        assert config == sweep.trial_config(trial.values)
        assert config.registry.model_name == "orders"

    def test_two_processes_do_not_work_on_one_sweep(self, sweep):
        with pytest.raises(JobInUseError), opening():
            pass

    def test_a_sweep_goes_on_with_what_it_began_with_but_may_get_more_trials(self):
        space = {RATE: {"low": 1e-5, "high": 1e-3}}
        with opening(space=space, sampler="random", trials=2):
            pass
        with opening(space=space, sampler="random", trials=3) as more:
            assert next(more.due()).number == 0
        assert find_sweep("local", "sweep-1")[1].trials == 3
        with (
            pytest.raises(IncompatibleConfigError, match="seed: was 42"),
            opening(space=space, sampler="random", trials=3, seed=1),
        ):
            pass
        other = CONFIG.model_copy(update={"training": CONFIG.training.model_copy()})
        other.training.__dict__["epochs"] = 3
        with (
            pytest.raises(IncompatibleConfigError, match="another config"),
            opening(config=other, space=space, sampler="random", trials=3),
        ):
            pass

    def test_a_wrong_space_leaves_no_folder(self):
        with pytest.raises(InvalidConfigError), opening(space={"training.rate": [1]}):
            pass
        with pytest.raises(JobNotFoundError):
            find_sweep("local", "sweep-1")

    @pytest.mark.parametrize("sweep_id", ["../x", "", "-a", "a/b", "x" * 65])
    def test_an_id_does_not_lead_out_of_the_folder(self, sweep_id):
        with pytest.raises(InvalidConfigError, match="sweep_id"):
            find_sweep("local", sweep_id)

    def test_values_that_exclude_each_other_are_a_failed_trial(self):
        tries = {"space": {"lora.initialization": ["pissa", "default"]}, "sampler": "random"}
        with opening(**tries, trials=4) as sweep:
            for trial in sweep.due():
                succeeds(sweep.job(trial.number), 1.0)
                sweep.settle(trial.number)
            states = {each.values["lora.initialization"]: each.state for each in sweep.records()}
        assert states == {"pissa": State.FAILED, "default": State.COMPLETED}


class TestTrials:
    def test_what_came_of_a_trial_is_read_from_its_job(self, sweep):
        trial = next(sweep.due())
        job = sweep.job(trial.number)
        says(job, "began")
        for verb, cached in (("sanitize", True), ("tokenize", False), ("tokenize", True)):
            says(job, "stage_ended", stage=verb, cached=cached)
        validates(job, 1.0, 3.0)
        validates(job, 2.0, 2.5)
        succeeds(job, 2.4, version=7)
        found = sweep.settle(trial.number)
        assert (found.state, found.value, found.valid_loss) == (State.COMPLETED, 2.4, 2.5)
        assert (found.version, found.cached, found.metrics["exact_match"]) == (7, ["sanitize"], 0.5)
        assert sweep.best() == found

    def test_time_in_which_no_process_worked_is_not_counted(self, sweep):
        trial = next(sweep.due())
        file = EventFile(sweep.job(trial.number).events)
        for moment, name in ((0, "began"), (4, "step"), (100, "resumed"), (103, "succeeded")):
            file.append({"time": 1e9 + moment, "name": name, "data": {}})
        assert sweep.record(trial.number).seconds == 7

    @pytest.mark.parametrize(
        ("outcome", "problem"),
        [
            ({"status": "failed", "error": {"message": "the loss is nan"}}, "the loss is nan"),
            ({"status": "succeeded", "metrics": {"bleu": 1.0}}, "loss was not measured, only"),
            ({"status": "succeeded", "metrics": {"loss": float("nan")}}, "loss is not a number"),
            (None, "Crashed: nothing"),
        ],
    )
    def test_a_trial_without_a_result_says_why(self, sweep, outcome, problem):
        trial = next(sweep.due())
        if outcome:
            sweep.job(trial.number).outcome.write_text(json.dumps(outcome))
        found = sweep.settle(trial.number, "Crashed: nothing")
        assert found.state is State.FAILED
        assert found.problem.startswith(problem)
        assert sweep.best() is None

    def test_valid_loss_is_that_of_the_chosen_checkpoint(self):
        with opening(metric="valid_loss") as sweep:
            trial = next(sweep.due())
            job = sweep.job(trial.number)
            validates(job, 1.0, 2.0)
            validates(job, 2.0, 2.5)
            says(job, "stage_ended", stage="checkpoint", valid_loss=2.0)
            succeeds(job, 9.0)
            found = sweep.settle(trial.number)
        assert found.value == 2.0
        assert head("valid_loss", [found]) == [
            *("trial", "learning_rate", "valid_loss", "seconds", "cached", "state")
        ]
        assert cells(found, "valid_loss")[:3] == ["0", "0.001", "2.0000"]

    def test_the_best_trials_records_must_be_there_to_be_judged(self, sweep):
        trial = next(sweep.due())
        with pytest.raises(DamagedFolderError, match="cannot be judged"):
            find_card(sweep.job(trial.number), sweep.trial_config(trial.values))


class TestWatching:
    def test_a_trial_worse_than_those_before_is_to_stop_once(self, sweep):
        due = sweep.due()
        first = sweep.job(next(due).number)
        watch = Watch(sweep, 0)
        validates(first, 1.0, 2.0)
        assert not watch.look()
        succeeds(first, 2.0)
        sweep.settle(0)
        second = sweep.job(next(due).number)
        watch = Watch(sweep, 1)
        assert not watch.look()
        assert not watch.tokenized
        says(second, "stage_ended", stage="tokenize")
        validates(second, 1.0, 3.0)
        assert watch.look()
        assert watch.tokenized
        assert not watch.look()
        assert sweep.settle(1).state is State.PRUNED
        assert said(sweep.record(1), "loss") == "learning_rate 0.0001: pruned at 1"

    def test_a_trial_that_has_trained_to_its_end_is_measured(self, sweep):
        due = sweep.due()
        for loss in (2.0, 3.0):
            number = next(due).number
            watch = Watch(sweep, number)
            validates(sweep.job(number), 2.0, loss)
            assert not watch.look()
            succeeds(sweep.job(number), loss)
            sweep.settle(number)
        assert [each.state for each in sweep.records()] == [State.COMPLETED] * 2

    def test_a_thread_calls_for_the_stop_while_the_trial_runs(self, sweep):
        due = sweep.due()
        first = sweep.job(next(due).number)
        validates(first, 1.0, 2.0)
        Watch(sweep, 0).look()
        succeeds(first, 2.0)
        sweep.settle(0)
        second = sweep.job(next(due).number)
        stopped = []
        with watching(sweep, 1, lambda: stopped.append(True)):
            validates(second, 1.0, 3.0)
            deadline = time.monotonic() + 20
            while not stopped and time.monotonic() < deadline:
                time.sleep(0.05)
        assert stopped == [True]


@pytest.fixture(params=["memory", "mlflow"])
def place(request):
    """A hub, and how a run's tags, status and name are read."""
    if request.param == "memory":
        hub = MemoryHub()
        return SimpleNamespace(hub=hub, see=lambda run_id: hub.runs[run_id])

    hub = MlflowHub(Settings(), "local")

    def see(run_id):
        run = hub._client.get_run(run_id)
        files = {each.path for each in hub._client.list_artifacts(run_id)}
        return SimpleNamespace(
            tags=run.data.tags,
            status=run.info.status,
            name=run.info.run_name,
            params=run.data.params,
            files=files,
        )

    return SimpleNamespace(hub=hub, see=see)


class TestTracking:
    def test_a_trials_job_finds_its_run_below_the_sweeps(self, sweep, place):
        tracking = SweepTracking(place.hub, sweep)
        number = next(sweep.due()).number
        with tracking.run() as parent:
            tracking.trial_began(number)
            tracking.trial_began(number)
            run_id = Tracking(place.hub, sweep.job(number)).run_id()
        seen = place.see(run_id)
        assert seen.name == "trial 0"
        assert seen.tags[PARENT_RUN] == parent
        assert seen.tags["job_id"] == sweep.job(number).id
        assert place.see(parent).status == "FINISHED"
        assert place.see(parent).params[f"space.{RATE}"] == "[0.001, 0.0001, 1e-06]"
        assert SweepTracking(place.hub, sweep).run_id() == parent

    def test_a_run_that_was_opened_before_a_kill_is_found_again(self, sweep, place):
        first = SweepTracking(place.hub, sweep).run_id()
        (sweep.folder / "run_id").unlink()
        assert SweepTracking(place.hub, sweep).run_id() == first

    def test_a_stopped_trial_is_tagged_and_its_job_has_ended(self, sweep, place):
        tracking = SweepTracking(place.hub, sweep)
        job = sweep.job(next(sweep.due()).number)
        tracking.trial_began(0)
        tracking.trial_stopped(0, 0.5)
        seen = place.see(Tracking(place.hub, job).run_id())
        assert seen.status == "KILLED"
        assert seen.tags["pruned"] == "worse at epoch 0.5 than the median of the trials before"
        assert json.loads(job.outcome.read_text())["status"] == "cancelled"

    @pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (SystemExit, "KILLED")])
    def test_the_sweeps_run_ends_as_the_sweep_does(self, sweep, error, status):
        hub = MemoryHub()
        with pytest.raises(error), SweepTracking(hub, sweep).run():
            raise error
        assert hub.runs["run-1"].status == status

    def test_table_and_picture_are_kept_once_and_more_trials_in_a_table_of_their_own(
        self, sweep, place
    ):
        tracking = SweepTracking(place.hub, sweep)
        results = []
        for trial in sweep.due():
            succeeds(sweep.job(trial.number), 3.0 - trial.number)
            sweep.settle(trial.number)
            tracking.tell_trials(sweep.records())
            results.append(result_of(sweep))
        tracking.tell(results[1])
        tracking.tell(results[1])
        tracking.tell(results[2])
        seen = place.see(tracking.run_id())
        assert {"trials.md", "sweep.png", "sweep.json", "config.yaml"} <= set(seen.files)
        assert (seen.tags["best_trial"], seen.tags["best"]) == ("2", "orders@1")
        if isinstance(place.hub, MemoryHub):
            assert [len(rows) for rows in seen.tables.values()] == [2, 3]
        assert (sweep.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
        sweep.keep(results[2])
        assert sweep.result() == results[2]


def result_of(sweep):
    best = sweep.best()
    registered = RegisteredVersion(
        folder=sweep.folder, model_name="orders", version=1, aliases=[], uri="", run_id=""
    )
    return SweepResult(
        sweep_id=sweep.id,
        run_id="run",
        metric="loss",
        trials=sweep.records(),
        best=best.number,
        registered=registered,
    )


def test_the_table_for_people_has_the_best_in_bold_and_says_what_failed(sweep):
    due = sweep.due()
    succeeds(sweep.job(next(due).number), 2.0)
    sweep.settle(0)
    next(due)
    sweep.settle(1, "out of\nmemory")
    text = markdown("Sweep", "loss", sweep.records(), 0)
    assert "| trial | learning_rate | loss | valid_loss | seconds | cached | state |" in text
    assert "| **0** | **0.001** | **2.0000** |  | **0.0** |  | **completed** |" in text
    assert "- trial 1: out of memory" in text
