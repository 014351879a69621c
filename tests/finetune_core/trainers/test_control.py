"""What a training may be asked between two steps: a pause, and a checkpoint."""

from __future__ import annotations

import json

import psutil
import pytest

from finetune_core.exceptions import JobHandedBackError, JobPausedError, JobSupersededError
from finetune_core.storage import digest_file
from finetune_core.trainers.checkpoints import Checkpoints, finished_training
from finetune_core.trainers.control import Control, Wish
from finetune_core.trainers.engine import train
from finetune_core.trainers.supervise import supervise

STEPS = 8  # an epoch: 64 rows in batches of 8
# No wish falls on a step that is logged, validated or saved by itself, but where a test says so.
SETTINGS = {"epochs": 2, "logging_steps": 5, "save_steps": 6, "eval_steps": 3}
TIMES = ("_runtime", "_per_second")


def ignore(event):
    """An observer that does nothing."""


def asking(control, *wishes, at):
    """An observer that asks when a step is logged: after the training has listened at that step."""

    def emit(event):
        if event["type"] == "step" and event["step"] == at:
            for wish in wishes:
                control.ask(wish)

    return emit


def controlled(request):
    """The request of a training that can be asked, and what it is asked by."""
    folder = request.output.with_name("control")
    return request.model_copy(update={"control": folder}), Control(folder)


def log(request):
    """What the last checkpoint tells of the training, but for how long things took."""
    newest = Checkpoints(request.output).newest()
    state = json.loads((newest.folder / "trainer_state.json").read_text())
    return [
        {name: value for name, value in entry.items() if not name.endswith(TIMES)}
        for entry in state["log_history"]
    ]


def weights(request):
    newest = Checkpoints(request.output).newest()
    return newest.step, digest_file(newest.folder / "adapter_model.safetensors")


def same_end(request, expected):
    assert weights(request) == weights(expected)
    assert log(request) == log(expected)
    found, record = (finished_training(each.output) for each in (request, expected))
    assert found.model_copy(update={"folder": record.folder}) == record


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, request_for):
    request = request_for(tmp_path_factory.mktemp("undisturbed") / "checkpoints", **SETTINGS)
    train(request, ignore)
    return request


class After:
    """Asks after so many steps, logged or not."""

    def __init__(self, control, wish, step):
        self._control, self._wish, self._step = control, wish, step

    def asked(self):
        self._step -= 1
        if self._step == 0:
            self._control.ask(self._wish)
        return self._control.asked()

    def done(self, wish):
        self._control.done(wish)

    def check(self):
        self._control.check()


def pause_after(request, monkeypatch, steps):
    """Trains on, and pauses after so many steps."""
    folder = request.control
    with monkeypatch.context() as patch:
        patch.setattr(
            "finetune_core.trainers.engine.Control",
            # It looks once before the first step.
            lambda *_: After(Control(folder), Wish.PAUSE, steps + 1),
        )
        train(request, ignore)


def test_paused_again_and_again_it_ends_with_the_same_bytes(
    tmp_path, request_for, undisturbed, monkeypatch
):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    reached = 0
    # Within a logging interval, right at a validation, at an epoch's end, one before the last.
    for step in (2, 3, STEPS, 11, 15):
        with pytest.raises(JobPausedError, match=f"paused at step {step}$"):
            pause_after(request, monkeypatch, step - reached)
        assert control.asked() is None
        assert finished_training(request.output) is None
        assert Checkpoints(request.output).newest().step == step
        reached = step
    train(request, ignore)
    same_end(request, undisturbed)


def test_a_pause_before_the_first_step_is_heeded_before_it(tmp_path, request_for):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    control.ask(Wish.PAUSE)
    control.ask(Wish.PAUSE)
    with pytest.raises(JobPausedError, match="paused at step 0"):
        train(request, ignore)
    assert control.asked() is None
    assert not Checkpoints(request.output).all()


def test_a_training_at_its_end_ends_and_leaves_the_pause_to_what_comes_next(
    tmp_path, request_for, undisturbed
):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))

    def emit(event):
        if event["type"] == "epoch" and event["epoch"] == 2.0:
            control.ask(Wish.PAUSE)

    train(request, emit)
    assert control.asked() is Wish.PAUSE
    same_end(request, undisturbed)


def test_a_checkpoint_is_saved_when_asked_for_and_the_training_goes_on(
    tmp_path, request_for, undisturbed
):
    settings = {**SETTINGS, "keep_checkpoints": 100}
    request, control = controlled(request_for(tmp_path / "checkpoints", **settings))
    train(request, asking(control, Wish.CHECKPOINT, at=10))
    assert control.asked() is None
    assert 11 in [each.step for each in Checkpoints(request.output).all()]
    same_end(request, undisturbed)


def test_a_pause_keeps_a_checkpoint_that_was_asked_for_too(tmp_path, request_for):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    with pytest.raises(JobPausedError):
        train(request, asking(control, Wish.CHECKPOINT, Wish.PAUSE, at=5))
    assert control.asked() is None
    assert Checkpoints(request.output).newest().step == 6


@pytest.mark.slow
def test_two_processes_pause_after_the_same_step_and_go_on_to_the_same_bytes(tmp_path, request_for):
    settings = {**SETTINGS, "num_processes": 2}
    whole = request_for(tmp_path / "whole" / "checkpoints", **settings)
    supervise(whole, folder=tmp_path / "whole" / "logs", on_event=ignore)
    request, control = controlled(request_for(tmp_path / "paused" / "checkpoints", **settings))

    def asked(event):
        if event["type"] == "validation" and event["step"] == 3:
            control.ask(Wish.PAUSE)

    with pytest.raises(JobPausedError, match="paused at step"):
        supervise(request, folder=tmp_path / "paused" / "logs", on_event=asked)
    running = (each.cmdline() for each in psutil.Process().children(recursive=True))
    assert not [command for command in running if "finetune_core.child" in command]
    assert 3 <= Checkpoints(request.output).newest().step < 2 * STEPS
    supervise(request, folder=tmp_path / "paused" / "logs", on_event=ignore)
    same_end(request, whole)


def test_handed_back_it_goes_on_to_the_same_bytes(tmp_path, request_for, undisturbed):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    with pytest.raises(JobHandedBackError, match="handed back at step 6"):
        train(request, asking(control, Wish.HAND_BACK, Wish.CHECKPOINT, at=5))
    assert control.asked() is None
    train(request, ignore)
    same_end(request, undisturbed)


def test_who_pauses_a_job_that_is_handed_back_has_it_paused(tmp_path, request_for):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    with pytest.raises(JobPausedError, match="paused at step 6"):
        train(request, asking(control, Wish.HAND_BACK, Wish.PAUSE, at=5))
    assert control.asked() is None


def test_a_training_that_was_taken_for_dead_saves_nothing_more(tmp_path, request_for, undisturbed):
    request, control = controlled(request_for(tmp_path / "checkpoints", **SETTINGS))
    request = request.model_copy(update={"attempt": control.begin_attempt()})

    def taken_over(event):
        if event["type"] == "step" and event["step"] == 5:
            control.begin_attempt()

    with pytest.raises(JobSupersededError, match="attempt 2 goes on with the job; this one, 1"):
        train(request, taken_over)
    # It was validated at step 3, and saved as the best so far; the save at step 6 was due.
    assert [each.step for each in Checkpoints(request.output).all()] == [3]
    train(request.model_copy(update={"attempt": 2}), ignore)
    same_end(request, undisturbed)
