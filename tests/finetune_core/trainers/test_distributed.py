"""Several processes that train together, over gloo, as accelerate's launcher starts them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_core.exceptions import FineTuneError, InvalidConfigError
from finetune_core.storage import digest_file
from finetune_core.trainers.checkpoints import Checkpoints, choose
from finetune_core.trainers.supervise import supervise

SAVED = 8  # a step with a checkpoint, in the first of two epochs
# 64 rows in batches of 6 leave a last step of 4. No dropout: which inputs are dropped depends on
# the processes.
SETTINGS = {
    "lora": {"lora_dropout": 0.0},
    "epochs": 2,
    "batch_size": 6,
    "save_steps": SAVED,
    "keep_checkpoints": 100,
}


class Trained:
    """A finished training: its losses and gradient norms by step, and its record."""

    def __init__(self, request, on_event=lambda event: None):
        self.request, self.events = request, []

        def hear(event):
            self.events.append(event)
            on_event(event)

        self.record = supervise(request, folder=request.output.parent / "logs", on_event=hear)
        steps = [event for event in self.events if event["type"] == "step"]
        self.steps = {event["step"]: (event["train_loss"], event["grad_norm"]) for event in steps}
        assert len(self.steps) == len(steps), "more than one process speaks"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, request_for):
    return Trained(request_for(tmp_path_factory.mktemp("alone") / "checkpoints", **SETTINGS))


@pytest.fixture(scope="module")
def together(tmp_path_factory, request_for):
    output = tmp_path_factory.mktemp("together") / "checkpoints"
    return Trained(request_for(output, num_processes=2, **SETTINGS))


def check(found, expected):
    """Compares steps; they are printed side by side."""
    lines = [
        f"step {step:2}  {loss:.6f} {found[step][0]:.6f}  {norm:.5f} {found[step][1]:.5f}"
        for step, (loss, norm) in expected.items()
    ]
    sys.stdout.write("\n".join(["         loss: one, two     gradient norm", *lines, ""]))
    assert found.keys() == expected.keys()
    for step, (loss, norm) in expected.items():
        assert found[step] == (pytest.approx(loss, abs=1e-4), pytest.approx(norm, rel=1e-3))


def test_two_processes_learn_what_one_learns(alone, together):
    check(together.steps, alone.steps)
    assert together.record.steps == alone.record.steps == 22
    best = [Checkpoints(each.record.folder).best().valid_loss for each in (alone, together)]
    assert best[0] == pytest.approx(best[1], abs=1e-4)


@pytest.mark.parametrize(("first", "processes"), [("alone", 2), ("together", 1)])
def test_a_checkpoint_of_one_is_resumed_by_the_other(
    tmp_path, request, request_for, alone, first, processes
):
    saved = request.getfixturevalue(first).record.folder / f"step-{SAVED:08d}"
    output = tmp_path / "checkpoints"
    shutil.copytree(saved, output / saved.name)
    resumed = Trained(request_for(output, num_processes=processes, **SETTINGS))
    check(resumed.steps, {step: found for step, found in alone.steps.items() if step > SAVED})


@pytest.mark.slow
def test_a_model_whose_shares_were_trained_loads_by_itself(tmp_path, request_for):
    """Full fine-tuning, the model shared out by FSDP, beside one process that holds it all."""
    settings = {"method": "full_finetuning", "learning_rate": 1e-4, "epochs": 2, "save_steps": 8}
    whole = Trained(request_for(tmp_path / "whole" / "checkpoints", lora={}, **settings))
    output = tmp_path / "shared" / "checkpoints"
    shared = Trained(request_for(output, num_processes=2, strategy="fsdp", lora={}, **settings))
    check(shared.steps, whole.steps)
    chosen = [choose(each.record, tmp_path / name) for name, each in (("a", whole), ("b", shared))]
    files = [sorted(file.name for file in each.folder.iterdir()) for each in chosen]
    assert files[0] == files[1]
    models = [AutoModelForCausalLM.from_pretrained(each.folder).eval() for each in chosen]
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        expected, found = (model(input_ids=ids).logits for model in models)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_dead_process_ends_the_others_and_another_try_goes_on(tmp_path, request_for, together):
    request = request_for(tmp_path / "checkpoints", num_processes=2, **SETTINGS)
    seen = []

    def kill_the_second(event):
        if event["type"] == "checkpoint" and not seen:
            seen.extend(ranks())
            assert len(seen) == 2
            next(each for each in seen if each.environ()["RANK"] == "1").kill()

    with pytest.raises(FineTuneError):
        Trained(request, kill_the_second)
    assert not any(each.is_running() for each in seen)
    Trained(request)
    names = [each.folder.name for each in Checkpoints(request.output).all()]
    for name in names:
        adapters = (
            folder / name / "adapter_model.safetensors"
            for folder in (request.output, together.record.folder)
        )
        assert len(set(map(digest_file, adapters))) == 1


def ranks():
    """The processes that train."""
    return [
        each
        for each in psutil.Process().children(recursive=True)
        if "finetune_core.child" in each.cmdline() and "RANK" in each.environ()
    ]


@pytest.mark.slow
def test_another_machine_joins_and_learns_alike(tmp_path, request_for, alone, monkeypatch):
    """Two launchers on this machine, each as if it were one of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("FINETUNE_MAIN_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("FINETUNE_MACHINE_RANK", "0")
    job = tmp_path / "ftjob-two"
    command = [sys.executable, "-m", "finetune_service.cli", "join", job.name, "-o", str(tmp_path)]
    second = subprocess.Popen(
        command, env={**os.environ, "FINETUNE_MACHINE_RANK": "1"}, stderr=subprocess.PIPE, text=True
    )
    try:
        request = request_for(job / "checkpoints", num_processes=2, num_machines=2, **SETTINGS)
        check(Trained(request).steps, alone.steps)
        _, err = second.communicate(timeout=60)
    finally:
        second.kill()
    assert second.returncode == 0
    assert "the training of ftjob-two is finished: 22 steps" in err


def test_a_machine_that_does_not_know_which_it_is_is_told_so(tmp_path, request_for):
    request = request_for(tmp_path / "checkpoints", num_processes=2, num_machines=2, **SETTINGS)
    with pytest.raises(InvalidConfigError, match="FINETUNE_MACHINE_RANK"):
        Trained(request)
