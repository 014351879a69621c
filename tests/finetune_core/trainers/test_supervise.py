"""What a training is eased by when it fails: memory that runs out, a loss that is no number."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_core.config import TrainingConfig
from finetune_core.exceptions import DivergedError, OutOfMemoryError
from finetune_core.storage import digest_file
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.supervise import Eased, easier_than, supervise

STEPS = 8  # an epoch


def run(request, on_event=lambda event: None):
    """The events of a training that goes to its end."""
    events = []

    def hear(event):
        events.append(event)
        on_event(event)

    supervise(request, folder=request.output.parent / "logs", on_event=hear)
    return events


def of(events, kind):
    return [event for event in events if event["type"] == kind]


def break_weights(model: Path) -> None:
    """Makes every loss of a model NaN."""
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def base(tmp_path, tiny_base):
    """A copy of the base that a test may break."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """Limits the memory that child processes may ask for."""

    def limit(kib: int) -> None:
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\nulimit -v {kib}\nexec "{sys.executable}" "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))

    return limit


def test_memory_that_runs_out_halves_the_rows_at_once_and_nothing_else(
    tmp_path, request_for, limited
):
    settings = {"batch_size": 64, "epochs": 2, "lora": {"lora_dropout": 0.0}}
    peaks = []

    def look(event):
        if event["type"] == "step":
            for child in psutil.Process().children():
                lines = (Path("/proc") / str(child.pid) / "status").read_text().splitlines()
                peaks.append(next(int(line.split()[1]) for line in lines if "VmPeak" in line))

    few = run(request_for(tmp_path / "few" / "out", micro_batch_size=4, **settings), look)
    limited(max(peaks) + 20_000)
    events = run(request_for(tmp_path / "auto" / "out", **settings))
    eased = of(events, "eased")
    assert eased[0]["micro_batch_size"] == 32
    assert "a step of 64 rows does not fit the memory of cpu" in eased[0]["cause"]
    assert eased[0]["action"] == "goes on with 32 rows at once; a step has as many as before"
    found, expected = (
        [event["train_loss"] for event in of(each, "step")] for each in (events, few)
    )
    assert found == pytest.approx(expected, abs=1e-5)


def test_memory_is_eased_step_by_step_until_nothing_is_left():
    training, eased, error = TrainingConfig(batch_size=12), Eased(), OutOfMemoryError("too large")
    seen = []
    while easier := easier_than(eased, eased.applied(training), error):
        eased = easier
        seen.append((eased.micro_batch_size, eased.gradient_checkpointing))
    assert seen == [(6, False), (3, False), (1, False), (1, True)]
    assert eased.learning_rate is None


def test_a_loss_that_is_no_number_halves_the_rate_from_the_last_checkpoint_on(
    tmp_path, request_for, base
):
    settings = {"epochs": 2, "save_steps": 6, "model": base}
    whole = run(request_for(tmp_path / "whole" / "out", **settings))
    request = request_for(tmp_path / "broken" / "out", **settings)

    def stop(event):
        if event["type"] == "checkpoint":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request, stop)
    good = (base / "model.safetensors").read_bytes()
    break_weights(base)

    def mend(event):
        if event["type"] == "eased":
            (base / "model.safetensors").write_bytes(good)

    events = run(request.model_copy(update={"force": True}), mend)
    (eased,) = of(events, "eased")
    assert "the loss is nan" in eased["cause"]
    assert eased["action"] == "goes on at half the learning rate, 0.0005"
    assert of(events, "step")[0]["step"] > 1
    rates = {event["step"]: event["learning_rate"] for event in of(whole, "step")}
    for event in of(events, "step")[1:]:
        assert event["learning_rate"] == pytest.approx(rates[event["step"]] / 2, rel=1e-6)
    assert of(events, "step")[-1]["step"] == 2 * STEPS


@pytest.mark.slow
def test_a_loss_that_is_no_number_twice_ends_the_training_and_keeps_what_is_good(
    tmp_path, request_for, base
):
    request = request_for(tmp_path / "out", model=base, epochs=2, save_steps=3)

    def stop(event):
        if event["type"] == "checkpoint":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request, stop)
    saved = Checkpoints(request.output).newest()
    before = digest_file(saved.folder / "adapter_model.safetensors")
    break_weights(base)
    request = request.model_copy(update={"force": True})
    events = []
    with pytest.raises(DivergedError, match="the loss is nan"):
        supervise(request, folder=tmp_path / "logs", on_event=events.append)
    assert len(of(events, "eased")) == 1
    assert Checkpoints(request.output).newest() == saved
    assert digest_file(saved.folder / "adapter_model.safetensors") == before
    again = []
    with pytest.raises(DivergedError):  # who goes on later does not get another try for free
        supervise(request, folder=tmp_path / "logs", on_event=again.append)
    assert not of(again, "eased")


def test_weights_that_are_no_numbers_never_become_a_checkpoint(tmp_path, request_for, base):
    """The loss is not looked at before the step of the save."""
    break_weights(base)
    request = request_for(tmp_path / "out", model=base, save_steps=3, logging_steps=100)
    with pytest.raises(DivergedError):
        supervise(request, folder=tmp_path / "logs", on_event=lambda event: None)
    assert not Checkpoints(request.output).all()
    kept = json.loads((request.output / "eased.json").read_text())
    assert kept["learning_rate"] == 0.0005
