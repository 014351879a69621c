"""What a training does on a disk that gets full: it pauses, and goes on to the same bytes."""

from __future__ import annotations

import os
import re

import pytest

from finetune_core.exceptions import DiskFullError
from finetune_core.storage import digest_file, free_bytes
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.engine import make_loop, train
from finetune_core.trainers.room import LEAST, Room, checkpoint_bytes
from finetune_core.trainers.supervise import supervise
from tests.finetune_core.disks import fill, small_disk

STEPS = 8  # an epoch
SETTINGS = {"save_steps": 3, "keep_checkpoints": 2}
PAGE = 4096


def ignore(event):
    """An observer that does nothing."""


def final(request):
    newest = Checkpoints(request.output).newest()
    return newest.step, digest_file(newest.folder / "adapter_model.safetensors")


def saved(request):
    return [each.step for each in Checkpoints(request.output).all()]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 16) as place:
        yield place


@pytest.fixture
def room(disk):
    checkpoints = Checkpoints(disk / "checkpoints")
    checkpoints.clear_staging()
    return Room(checkpoints, 10**6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, request_for):
    request = request_for(tmp_path_factory.mktemp("undisturbed") / "checkpoints", **SETTINGS)
    train(request, ignore)
    return final(request)


def test_what_is_held_nobody_else_gets_until_it_is_used(disk, room):
    before = free_bytes(disk)
    room.hold(0)
    assert before - free_bytes(disk) == pytest.approx(1.25e6 + LEAST, abs=PAGE)
    fill(disk)
    room.use(1)
    assert free_bytes(disk) >= 1.25e6 + LEAST


def test_room_that_is_not_there_pauses_with_figures(disk, room):
    fill(disk, leave=2 * PAGE * 100)
    with pytest.raises(DiskFullError) as caught:
        room.hold(7)
    assert caught.value.message == (
        "paused at step 7, as the disk has no room for a checkpoint: it needs 2.3 MB, 0.8 MB are "
        f"free in {disk / 'checkpoints'}; none is saved"
    )
    assert caught.value.hint == "Free space on it, and resume the job."


def test_another_error_of_a_save_stays_what_it_is(room):
    room.hold(0)
    with pytest.raises(KeyError), room.watched(1):
        raise KeyError


@pytest.mark.parametrize("settings", [{}, {"method": "full_finetuning"}])
def test_the_estimate_is_what_a_checkpoint_takes(tmp_path, request_for, settings):
    request = request_for(tmp_path / "checkpoints", **settings)
    loop = make_loop(request, ignore)
    expected = checkpoint_bytes(loop.model)
    train(request, ignore)
    files = ("adapter_model.safetensors", "model.safetensors", "optimizer.pt")
    folder = Checkpoints(request.output).newest().folder
    found = sum((folder / name).stat().st_size for name in files if (folder / name).exists())
    assert found == pytest.approx(expected, rel=0.3)


def test_a_training_on_a_full_disk_pauses_behind_a_save_and_ends_with_the_same_bytes(
    disk, request_for, undisturbed
):
    """The room for the save was held; that for the next one is missing."""
    request, paused = request_for(disk / "checkpoints", **SETTINGS), "paused at step 3, .* step 3$"

    def fill_at_the_second_step(event):
        if event["type"] == "step" and event["step"] == 2:
            fill(disk)

    with pytest.raises(DiskFullError) as caught:
        train(request, fill_at_the_second_step)
    assert re.search(paused, caught.value.message)
    assert saved(request) == [3]
    with pytest.raises(DiskFullError) as caught:  # nobody has freed anything
        supervise(request, folder=disk / "logs", on_event=ignore)
    assert re.search(paused, caught.value.message)
    (disk / "filler").unlink()
    supervise(request, folder=disk / "logs", on_event=ignore)
    assert final(request) == undisturbed


@pytest.mark.parametrize(
    ("written", "cause"),
    [("nothing", "SafetensorError"), ("weights", "Exception"), ("tokenizer", "RuntimeError")],
)
def test_a_save_that_finds_no_room_is_removed_and_the_last_checkpoint_stays(
    tmp_path, disk, request_for, undisturbed, monkeypatch, written, cause
):
    """Whatever writes last: the adapter, the tokenizer, the optimizer."""
    request = request_for(disk / "checkpoints", **SETTINGS)

    def fill_behind_the_first_save(event):
        if event["type"] == "step" and event["step"] == 4:
            sizes = {path.name: path.stat().st_size for path in saved_folder().iterdir()}
            weights = sizes["adapter_model.safetensors"] + sizes["adapter_config.json"]
            tokenizer = sum(size for name, size in sizes.items() if "token" in name)
            leave = {
                "nothing": 2 * PAGE,
                "weights": weights + 6 * PAGE,
                "tokenizer": weights + tokenizer + sizes["README.md"] + 16 * PAGE,
            }
            fill(disk, leave=leave[written])

    def saved_folder():
        return Checkpoints(request.output).newest().folder

    with monkeypatch.context() as patch:
        patch.setattr(Room, "_needed", lambda room: 1)  # an estimate that is far too low
        with pytest.raises(
            DiskFullError, match=r"paused at step 6, .* is that of step 3"
        ) as caught:
            train(request, fill_behind_the_first_save)
    assert type(caught.value.__cause__).__name__ == cause
    assert saved(request) == [3]
    assert not list(Checkpoints(request.output).staging.iterdir())
    (disk / "filler").unlink()
    train(request, ignore)
    assert final(request) == undisturbed


def test_the_old_checkpoint_is_deleted_only_when_the_new_one_is_whole(
    tmp_path, request_for, monkeypatch
):
    request = request_for(tmp_path / "checkpoints", save_steps=3, keep_checkpoints=1)

    def look(checkpoints, keep):
        pruned.append(saved(request))
        prune(checkpoints, keep)

    pruned, prune = [], Checkpoints.prune
    monkeypatch.setattr(Checkpoints, "prune", look)
    train(request, ignore)
    assert pruned == [[3], [3, 6], [6, 8]]


def test_a_killed_trainer_holds_no_room(disk, room):
    before = free_bytes(disk)
    child = os.fork()
    if child == 0:
        room.hold(0)
        os.kill(os.getpid(), 9)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 9
    assert free_bytes(disk) == pytest.approx(before, abs=2 * PAGE)
