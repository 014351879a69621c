"""Checkpoints are whole, the best stays, and a damaged one is never gone on from."""

from __future__ import annotations

import json
import math

import pytest

from finetune_core.exceptions import TrainingError
from finetune_core.storage import digest_folder, verify, write_record
from finetune_core.trainers.checkpoints import Checkpoints, choose, finished_training
from finetune_core.types import TrainedCheckpoints


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"data": "a1b2"})
    checkpoints.clear_staging()
    return checkpoints


@pytest.fixture
def save(checkpoints):
    def save(step, valid_loss=None, content=b"weights"):
        written = checkpoints.staging / f"checkpoint-{step}"
        written.mkdir(exist_ok=True)
        (written / "adapter_model.safetensors").write_bytes(content)
        (written / "adapter_config.json").write_text("{}")
        (written / "optimizer.pt").write_bytes(b"state")
        return checkpoints.publish(written, step=step, epoch=step / 10, valid_loss=valid_loss)

    return save


def flip(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])


def steps(checkpoints):
    return [each.step for each in checkpoints.all()]


def test_checkpoints_come_by_step_with_what_was_measured(checkpoints, save):
    for step, loss in ((100, 0.5), (20, None), (3, 0.75)):
        save(step, loss)
    origin = {"data": "a1b2"}
    assert [each[1:] for each in checkpoints.all()] == [
        (3, 0.3, 0.75, origin),
        (20, 2, None, origin),
        (100, 10, 0.5, origin),
    ]
    assert checkpoints.newest().step == 100


def test_without_checkpoints_there_is_neither_newest_nor_best(checkpoints):
    assert (checkpoints.all(), checkpoints.newest(), checkpoints.best()) == ([], None, None)


@pytest.mark.parametrize("damage", ["flip", "missing"])
def test_the_newest_is_the_last_that_is_undamaged(checkpoints, save, damage):
    save(1), save(2)
    last = save(3)
    if damage == "flip":
        flip(last)
    else:
        (last / "optimizer.pt").unlink()
    told = []
    assert Checkpoints(checkpoints.folder, emit=told.append).newest().step == 2
    assert [(event["type"], event["step"]) for event in told] == [("set_aside", 3)]
    assert ("has changed" if damage == "flip" else "is missing") in told[0]["problem"]


def test_where_every_checkpoint_is_damaged_there_is_no_newest(checkpoints, save):
    flip(save(1)), flip(save(2))
    assert checkpoints.newest() is None


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_done_again(checkpoints, save):
    flip(save(1, 0.5))
    verify(save(1, 0.5))


def test_the_best_is_that_of_the_lowest_loss_and_of_equals_the_first(checkpoints, save):
    for step, loss in ((1, 0.9), (2, 0.4), (3, None), (4, 0.4), (5, 0.6)):
        save(step, loss)
    assert checkpoints.best().step == 2


def test_a_loss_of_zero_is_the_best(checkpoints, save):
    save(1, 0.1), save(2, 0.0)
    assert checkpoints.best().step == 2


def test_a_loss_that_is_no_number_is_never_the_best(checkpoints, save):
    save(1, math.nan), save(2, 1.0)
    assert checkpoints.best().step == 2


@pytest.mark.parametrize(("keep", "left"), [(1, [2, 5]), (2, [2, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_pruning_keeps_the_newest_and_the_best(checkpoints, save, keep, left):
    for step, loss in ((1, 0.9), (2, 0.4), (3, 0.5), (4, 0.6), (5, None)):
        save(step, loss)
    checkpoints.prune(keep)
    assert steps(checkpoints) == left
    assert not list(checkpoints.staging.iterdir())


def test_what_is_half_written_is_never_listed(checkpoints, save):
    save(1)
    (checkpoints.staging / "checkpoint-2").mkdir()
    (checkpoints.staging / "checkpoint-2" / "adapter_model.safetensors").touch()
    (checkpoints.folder / "step-00000003").mkdir()  # a folder without its manifest
    assert steps(checkpoints) == [1]
    assert checkpoints.newest().step == 1
    checkpoints.clear_staging()
    assert list(checkpoints.staging.iterdir()) == []
    assert steps(checkpoints) == [1]


def trained(folder):
    return TrainedCheckpoints(
        folder=folder,
        steps=3,
        epochs=1.0,
        train_loss=0.5,
        trained_tokens=10,
        parameters=100,
        trained_parameters=10,
        batch_size=8,
        precision="float32",
        device="cpu",
    )


def test_a_training_is_finished_when_its_record_is_there(checkpoints, save):
    save(1)
    assert finished_training(checkpoints.folder) is None
    write_record(checkpoints.folder, trained(checkpoints.folder))
    expected = trained(checkpoints.folder).model_copy(update={"cached": True})
    assert finished_training(checkpoints.folder) == expected


def test_the_chosen_one_is_the_best_without_what_only_a_resume_needs(checkpoints, save, tmp_path):
    save(1, 0.9), save(2, 0.4, b"the best"), save(3, 0.5)
    chosen = choose(trained(checkpoints.folder), tmp_path / "adapter")
    assert (chosen.step, chosen.valid_loss) == (2, 0.4)
    assert (chosen.folder / "adapter_model.safetensors").read_bytes() == b"the best"
    assert {path.name for path in chosen.folder.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "record.json",
        "manifest.json",
    }
    verify(chosen.folder)


def test_the_chosen_ones_digest_is_that_of_the_adapter_alone(checkpoints, save, tmp_path):
    save(2, 0.4)
    chosen = choose(trained(checkpoints.folder), tmp_path / "adapter")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "adapter_model.safetensors").write_bytes(b"weights")
    (plain / "adapter_config.json").write_text("{}")
    assert chosen.digest == digest_folder(plain)
    assert json.loads((chosen.folder / "record.json").read_text())["digest"] == chosen.digest


def test_choosing_again_gives_the_same(checkpoints, save, tmp_path):
    save(1, 0.4)
    first = choose(trained(checkpoints.folder), tmp_path / "adapter")
    second = choose(trained(checkpoints.folder), tmp_path / "adapter")
    assert second == first.model_copy(update={"cached": True})


def test_where_the_best_is_damaged_the_next_best_goes_on(checkpoints, save, tmp_path):
    flip(save(1, 0.4))
    save(2, 0.6)
    save(3, 0.5)
    assert choose(trained(checkpoints.folder), tmp_path / "adapter").step == 3
    assert [each.step for each in checkpoints.all()] == [2, 3]


def test_without_a_measured_checkpoint_there_is_nothing_to_choose(checkpoints, save, tmp_path):
    save(1)
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        choose(trained(checkpoints.folder), tmp_path / "adapter")
