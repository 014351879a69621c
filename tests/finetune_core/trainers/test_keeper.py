"""When a training validates, saves and stops early."""

from __future__ import annotations

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from finetune_core.config import TrainingConfig
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.observers.keeper import Keeper
from finetune_core.trainers.room import Room


def make(folder, config):
    checkpoints = Checkpoints(folder)
    return Keeper(config, checkpoints, Room(checkpoints, 0), lambda event: None)


@pytest.fixture
def asked(tmp_path):
    """What a keeper asks for after each of some validation losses."""

    def ask(losses: list[float], **training):
        keeper = make(tmp_path, TrainingConfig(**training))
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        state, answers = TrainerState(), []
        for loss in losses:
            control = TrainerControl()
            state.log_history.append({"eval_valid_loss": loss})
            keeper.on_evaluate(arguments, state, control)
            answers.append((control.should_save, control.should_training_stop))
        return answers

    return ask


def test_the_best_so_far_is_saved(asked):
    assert [save for save, _ in asked([3.0, 2.0, 2.5, 2.0, 1.9])] == [1, 1, 0, 0, 1]


def test_it_stops_when_the_best_is_too_long_ago(asked):
    answers = asked([3.0, 2.0, 2.5, 1.9, 2.0, 2.1], early_stopping_patience=2)
    assert [stop for _, stop in answers] == [0, 0, 0, 0, 0, 1]
    assert answers[-1] == (True, True), "where it stops, it saves"


def test_without_patience_it_never_stops(asked):
    assert not any(stop for _, stop in asked([1.0, 2.0, 3.0, 4.0, 5.0]))


@pytest.mark.parametrize(
    ("step", "epoch", "validate", "save"),
    [(2, 0.4, False, False), (3, 0.6, True, False), (4, 0.8, False, True), (12, 2.4, True, True)],
)
def test_steps_are_counted_from_the_start(tmp_path, step, epoch, validate, save):
    config = TrainingConfig(eval_steps=3, save_steps=4)
    keeper = make(tmp_path, config)
    control, state = TrainerControl(), TrainerState(global_step=step, epoch=epoch)
    keeper.on_step_end(TrainingArguments(output_dir=str(tmp_path)), state, control)
    assert (control.should_evaluate, control.should_save) == (validate, save)
