"""A training goes on only from a checkpoint of the same data, base and settings."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_core.exceptions import IncompatibleCheckpointError
from finetune_core.storage import write_json
from finetune_core.trainers.checkpoints import Checkpoint, Checkpoints
from finetune_core.trainers.origin import check_origin, origin_of
from finetune_core.trainers.supervise import supervise

STEPS = 8  # an epoch
SETTINGS = {"save_steps": 3}


def run(request, on_event=lambda event: None):
    events = []

    def hear(event):
        events.append(event)
        on_event(event)

    supervise(request, folder=request.output.parent / "logs", on_event=hear)
    return events


def stop_at_checkpoint(event):
    if event["type"] == "checkpoint":
        raise KeyboardInterrupt


def differences(request, other):
    """The names in which two requests differ."""
    first, second = origin_of(request), origin_of(other)
    return {name for name in {**first, **second} if first.get(name) != second.get(name)}


@pytest.fixture
def stopped(tmp_path, request_for):
    """The request of a training that was stopped after its first checkpoint."""
    request = request_for(tmp_path / "checkpoints", **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        run(request, stop_at_checkpoint)
    assert Checkpoints(request.output).newest().step == 3
    return request


def test_with_other_settings_it_is_refused_and_every_difference_is_named(
    stopped, request_for, tmp_path
):
    changed = request_for(
        stopped.output, **SETTINGS, learning_rate=5e-4, lora={"lora_rank": 8}
    ).model_copy(update={"tokens": stopped.tokens.model_copy(update={"digest": "f" * 64})})
    events = []
    with pytest.raises(IncompatibleCheckpointError) as caught:
        supervise(changed, folder=tmp_path / "logs", on_event=events.append)
    assert caught.value.message.splitlines() == [
        "step-00000003 was trained with something else",
        f"  data: {stopped.tokens.digest[:8]}, now ffffffff",
        "  training.learning_rate: 0.001, now 0.0005",
        "  lora.lora_rank: 4, now 8",
    ]
    assert "force" in caught.value.hint
    assert not events
    assert Checkpoints(stopped.output).newest().step == 3


def test_forced_it_goes_on_from_the_checkpoint_and_later_without_force(stopped, request_for):
    changed = request_for(stopped.output, **SETTINGS, learning_rate=5e-4)
    with pytest.raises(KeyboardInterrupt):
        run(changed.model_copy(update={"force": True}), stop_at_checkpoint)
    log = (stopped.output.parent / "logs" / "train.log").read_text()
    assert "training.learning_rate: 0.001, now 0.0005" in log
    assert Checkpoints(stopped.output).newest().step == 6
    events = run(changed)
    assert events[0] == {**events[0], "type": "began", "step": 6}


def test_what_was_eased_and_how_a_step_is_shared_out_is_no_difference(stopped, request_for):
    write_json(stopped.output / "eased.json", {"micro_batch_size": 4, "learning_rate": 2e-4})
    other = {"save_steps": 2, "keep_checkpoints": 7, "logging_steps": 2, "micro_batch_size": 2}
    events = run(request_for(stopped.output, **other))
    assert events[0]["step"] == 3
    assert events[-1]["step"] == STEPS


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"epochs": 2}, "training.epochs"),
        ({"batch_size": 4}, "training.batch_size"),
        ({"warmup_steps": 2}, "training.warmup_steps"),
        ({"scheduler": "cosine"}, "training.scheduler"),
        ({"weight_decay": 0.1}, "training.weight_decay"),
        ({"max_grad_norm": 0.5}, "training.max_grad_norm"),
        ({"eval_steps": 2}, "training.eval_steps"),
        ({"early_stopping_patience": 2}, "training.early_stopping_patience"),
        ({"precision": "bf16"}, "training.precision"),
        ({"seed": 7}, "training.seed"),
        ({"method": "instruction_tuning"}, "training.method"),
        ({"lora": {"lora_alpha": 9}}, "lora.lora_alpha"),
        ({"lora": {"target_modules": ["q_proj"]}}, "lora.target_modules"),
    ],
)
def test_each_setting_that_decides_is_one(tmp_path, request_for, settings, name):
    assert differences(request_for(tmp_path), request_for(tmp_path, **settings)) == {name}


@pytest.mark.parametrize(
    "settings",
    [{"num_processes": 2, "strategy": "fsdp"}, {"gradient_checkpointing": True}],
)
def test_how_it_is_computed_is_none(tmp_path, request_for, settings):
    assert not differences(request_for(tmp_path), request_for(tmp_path / "there", **settings))


def test_auto_is_what_it_stands_for(tmp_path, request_for):
    auto, same = (request_for(tmp_path, learning_rate=rate) for rate in ("auto", 2e-4))
    assert not differences(auto, same)


def test_all_weights_trained_need_no_adapter(tmp_path, request_for):
    full = {"method": "full_finetuning"}
    ranks = [request_for(tmp_path, lora={"lora_rank": rank}, **full) for rank in (4, 8)]
    assert not differences(*ranks)


def test_a_base_is_told_from_another_of_the_same_shape_wherever_it_is(
    tmp_path, request_for, tiny_base
):
    moved, tuned = (shutil.copytree(tiny_base, tmp_path / name) for name in ("moved", "tuned"))
    weights = load_file(tuned / "model.safetensors")
    norm = weights["model.norm.weight"]
    weights["model.norm.weight"] = torch.nextafter(norm, torch.full_like(norm, 9))
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    request = request_for(tmp_path)
    assert not differences(request, request_for(tmp_path, model=moved))
    assert differences(request, request_for(tmp_path, model=tuned)) == {"model"}


def test_a_setting_that_one_of_them_does_not_have_is_a_difference(tmp_path):
    checkpoint = Checkpoint(tmp_path / "step-00000001", 1, 0.1, None, {"a": 1, "b": 2})
    check_origin(checkpoint, {"a": 1, "b": 2})
    with pytest.raises(IncompatibleCheckpointError, match=r"b: 2, now None\n  c: None, now 3"):
        check_origin(checkpoint, {"a": 1, "c": 3})
