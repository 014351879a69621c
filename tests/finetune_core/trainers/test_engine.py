"""Training for real, on the model that the repo ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.exceptions import TargetModulesError, TrainingError
from finetune_core.models.adapters import add_lora
from finetune_core.models.loading import load_model
from finetune_core.storage import digest_file
from finetune_core.trainers.batching import LengthGroupedSampler
from finetune_core.trainers.checkpoints import Checkpoints, choose
from finetune_core.trainers.engine import train

STEPS = 8  # an epoch: 64 rows in batches of 8


def ignore(event):
    """An observer that does nothing."""


def losses(request) -> list[float]:
    events = []
    train(request, events.append)
    return [event["train_loss"] for event in events if event["type"] == "step"]


def adapter(folder) -> str:
    return digest_file(folder / "adapter_model.safetensors")


def test_the_loss_falls_and_the_gradient_is_never_zero(tmp_path, request_for):
    events = []
    record = train(request_for(tmp_path, epochs=2), events.append)
    steps = [event for event in events if event["type"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 2 * STEPS + 1))
    assert all(event["grad_norm"] > 0 for event in steps)
    valid = [event["valid_loss"] for event in events if event["type"] == "validation"]
    assert len(valid) == 2
    assert valid[1] < valid[0]
    assert record.steps == 2 * STEPS
    assert record.trained_parameters < record.parameters / 5


def test_a_training_that_was_stopped_ends_with_the_same_bytes(tmp_path, request_for):
    whole = request_for(tmp_path / "whole", epochs=2, save_steps=3)
    train(whole, ignore)

    def stop_at(step):
        def emit(event):
            if event["type"] == "step" and event["step"] == step:
                raise KeyboardInterrupt

        return emit

    stopped = request_for(tmp_path / "stopped", epochs=2, save_steps=3)
    for step in (5, 10, 13):  # in the first epoch, early in the second, later in it
        with pytest.raises(KeyboardInterrupt):
            train(stopped, stop_at(step))
    train(stopped, ignore)
    names = [each.folder.name for each in Checkpoints(whole.output).all()]
    assert names[-1] == "step-00000016"
    assert [each.folder.name for each in Checkpoints(stopped.output).all()] == names
    for name in names:
        assert adapter(whole.output / name) == adapter(stopped.output / name)
    logs = [
        json.loads((request.output / names[-1] / "trainer_state.json").read_text())["log_history"]
        for request in (whole, stopped)
    ]
    assert [entry.get("loss") for entry in logs[0]] == [entry.get("loss") for entry in logs[1]]


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, request_for, micro):
    plain = {"lora": {"lora_dropout": 0.0}, "batch_size": 12}  # the last step has 4 rows
    at_once = losses(request_for(tmp_path / "at_once", **plain))
    in_parts = losses(request_for(tmp_path / "in_parts", micro_batch_size=micro, **plain))
    assert len(at_once) == 6
    assert in_parts == pytest.approx(at_once, abs=1e-5)


def test_every_step_has_the_loss_of_a_plain_loop_in_float32(tmp_path, request_for, tokens):
    """The same rows in the same order, through the model's and peft's own code alone."""
    from datasets import Dataset
    from transformers import get_linear_schedule_with_warmup, set_seed

    request = request_for(tmp_path, epochs=2, lora={"lora_dropout": 0.0})
    events = []
    train(request, events.append)
    steps = [event for event in events if event["type"] == "step"]
    set_seed(request.training.seed)
    model = add_lora(load_model(request.model), request.lora)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 2 * STEPS)
    rows = Dataset.from_file(str(tokens.train))
    order = LengthGroupedSampler(rows["length"][:], 8, request.training.seed)
    collate = Collator(load_tokenizer(Path("examples/tiny_base")))
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        numbers = list(order)
        for start in range(0, len(numbers), 8):
            batch = collate([rows[number] for number in numbers[start : start + 8]])
            output = model(**batch)
            loss, right = output.loss, batch["labels"][:, 1:]
            hits = (output.logits[:, :-1].argmax(-1) == right).sum()
            expected.append((loss.item(), (hits / (right != -100).sum()).item()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    for step, (loss, accuracy) in zip(steps, expected, strict=True):
        assert step["train_loss"] == pytest.approx(loss, abs=1e-4)
        assert step["train_token_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert expected[-1][0] < expected[0][0] - 0.5


def test_bf16_learns_as_float32_does(tmp_path, request_for):
    plain = {"epochs": 2, "lora": {"lora_dropout": 0.0}}
    whole = losses(request_for(tmp_path / "float32", **plain))
    half = losses(request_for(tmp_path / "bf16", precision="bf16", **plain))
    assert half == pytest.approx(whole, rel=0.03)


def test_only_the_answers_tokens_are_learned(tokens):
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("examples/tiny_base")
    row = Dataset.from_file(str(tokens.train))[0]
    trained = [token for token, label in zip(row["input_ids"], row["labels"]) if label != -100]  # noqa: B905
    text = tokenizer.decode(trained)
    assert text.startswith("item: ")
    assert text.endswith(tokenizer.eos_token)
    assert text.count(tokenizer.eos_token) == 1


def test_the_best_checkpoint_goes_on_without_what_only_a_resume_needs(tmp_path, request_for):
    request = request_for(tmp_path / "checkpoints", epochs=2)
    chosen = choose(train(request, ignore), tmp_path / "adapter")
    best = min(Checkpoints(request.output).all(), key=lambda each: each.valid_loss)
    assert (chosen.step, chosen.valid_loss) == (best.step, best.valid_loss)
    files = {file.name for file in chosen.folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert not {"optimizer.pt", "training_args.bin", "trainer_state.json"} & files


def test_a_loss_that_is_not_a_number_ends_the_training(tmp_path, request_for, tiny_base):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"the loss is nan .* at step 1"):
        train(request_for(tmp_path / "out", model=broken), ignore)


def test_modules_that_are_not_there_are_named_with_those_that_are(tmp_path, request_for):
    with pytest.raises(TargetModulesError, match="no module named c_attn") as error:
        train(request_for(tmp_path, lora={"target_modules": ["c_attn"]}), ignore)
    assert "q_proj" in str(error.value)


def test_a_long_validation_says_now_and_then_that_it_goes_on(tmp_path, request_for, monkeypatch):
    monkeypatch.setattr("finetune_core.trainers.observers.announcer.VALIDATING_SECONDS", 0.0)
    events = []
    train(request_for(tmp_path, eval_steps=4, micro_batch_size=4), events.append)
    said = [(event["step"], event["batches"]) for event in events if event["type"] == "validating"]
    assert said == [(step, batch) for step in (4, STEPS) for batch in (1, 2, 3, 4)]  # of 16 rows
