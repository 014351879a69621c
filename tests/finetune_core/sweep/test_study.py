"""The study: who is tried next, who is stopped, and that it goes on where it was killed."""

from __future__ import annotations

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.space import Goal, resolve
from finetune_core.sweep.study import State, Study

CONFIG = PipelineConfig.parse({"dataset": {"path": "orders.jsonl"}})
RATE, RANK = "training.learning_rate", "lora.lora_rank"
LOSS, MATCH = Goal("loss", lower=True), Goal("exact_match", lower=False)
RANGES = {RATE: {"low": 1e-5, "high": 1e-3, "log": True}, RANK: {"low": 4, "high": 16}}


def study_of(file, space=None, goal=LOSS, **fields):
    tries = SweepConfig.parse({"space": space or RANGES, **fields})
    return Study(file, tries, resolve(tries, CONFIG), goal)


def tried(study):
    return [tuple(each.values.values()) for each in study.trials()]


def test_a_grid_is_asked_in_order_and_to_its_end(tmp_path):
    study = study_of(tmp_path / "j", {RATE: [1e-4, 1e-3], RANK: [4, 8]}, sampler="grid")
    while trial := study.ask():
        study.completed(trial.number, 1.0)
    assert tried(study) == [(1e-4, 4), (1e-4, 8), (1e-3, 4), (1e-3, 8)]
    assert [each.state for each in study.trials()] == [State.COMPLETED] * 4


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_study_that_is_opened_again_goes_on_as_if_it_had_not_been_closed(tmp_path, sampler):
    whole = study_of(tmp_path / "whole", sampler=sampler, trials=8)
    while trial := whole.ask():
        whole.completed(trial.number, trial.values[RATE])
    for _ in range(8):
        part = study_of(tmp_path / "part", sampler=sampler, trials=8)
        trial = part.ask()
        part.completed(trial.number, trial.values[RATE])
    assert tried(part) == tried(whole)
    assert len(set(tried(whole))) == 8
    assert part.ask() is None
    assert all(1e-5 <= rate <= 1e-3 and isinstance(rank, int) for rate, rank in tried(whole))


def test_a_trial_that_was_running_is_run_again_with_its_values(tmp_path):
    study = study_of(tmp_path / "j", sampler="random", trials=3)
    study.completed(study.ask().number, 1.0)
    begun = study.ask()
    again = study_of(tmp_path / "j", sampler="random", trials=3)
    assert again.go_on() == [begun]
    assert again.ask().number == 2


def reported(study, *losses, value=1.0):
    trial = study.ask()
    stopped = [study.report(trial.number, 0.5 * (n + 1), loss) for n, loss in enumerate(losses)]
    if not any(stopped):
        study.completed(trial.number, value)
    return trial.number, stopped


@pytest.mark.parametrize("goal", [LOSS, MATCH])
def test_a_trial_worse_than_the_median_is_stopped_whatever_the_best_is_by(tmp_path, goal):
    study = study_of(tmp_path / "j", goal=goal, trials=9, prune_after_trials=3)
    for loss in (3.0, 2.0, 1.0):
        assert reported(study, loss + 9, loss)[1] == [False, False]
    assert reported(study, 10.9, 1.9)[1] == [False, False]
    number, stopped = reported(study, 11.1)
    assert stopped == [True]
    study.pruned(number)
    found = study.trial(number)
    assert (found.state, found.stopped_at, found.value) == (State.PRUNED, 0.5, None)
    assert study.best().number == 0


def test_what_was_reported_before_a_kill_is_reported_once(tmp_path):
    study = study_of(tmp_path / "j", trials=3, prune_after_trials=1)
    reported(study, 1.0)
    trial = study.ask()
    assert study.report(trial.number, 0.5, 2.0)
    again = study_of(tmp_path / "j", trials=3, prune_after_trials=1)
    assert not again.report(trial.number, 0.5, 2.0)
    assert again.go_on()[0].stopped_at == 0.5


def test_no_trial_is_stopped_before_its_time_or_where_nobody_wants_it(tmp_path):
    late = study_of(tmp_path / "late", trials=4, prune_after_trials=1, prune_after_epochs=1.0)
    reported(late, 1.0, 1.0)
    assert reported(late, 2.0, 2.0)[1] == [False, True]
    never = study_of(tmp_path / "never", trials=4, prune_after_trials=1, prune=False)
    reported(never, 1.0)
    assert reported(never, 2.0)[1] == [False]


def test_a_failed_trial_says_why_and_is_not_the_best(tmp_path):
    study = study_of(tmp_path / "j", trials=2)
    study.failed(study.ask().number, "the loss is nan")
    assert study.trial(0).problem == "the loss is nan"
    assert study.best() is None
    study.completed(study.ask().number, 4.0)
    assert study.best().number == 1
