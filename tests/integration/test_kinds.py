"""A model that chooses and one that reads and writes, through the whole command."""

from __future__ import annotations

import json
import re

import pytest

from finetune_core.evaluation.generation import generate
from tests.families import LABELS, reviews, save_model, write_csv
from tests.integration.command import cli, finetune

HELD = 60


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains a family on a CSV of {text, label}; gives what was printed and the job's folder."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    rows = reviews(240 + HELD)
    held = rows[240:]

    def train(family, *flags):
        finished = cli(
            "train", "--json",
            "--model", save_model(family, tmp_path / family),
            "--dataset", write_csv(tmp_path / "reviews.csv", rows[:240]),
            "--validation", write_csv(tmp_path / "held.csv", held),
            "--epochs", 4, "--learning-rate", "1e-3", "--batch-size", 8,
            "--output", tmp_path / "out", "--name", "reviews", *flags,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        result = json.loads(finished.stdout)
        return result, tmp_path / "out" / result["job_id"]

    labels = [label for _, label in held]
    train.majority = max(map(labels.count, LABELS)) / HELD
    return train


def answers_of_the_card(folder):
    """What the model answers that the card's own lines load, and what the evaluation heard."""
    card = (folder / "package" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("FOLDER_OF_THIS_FILE", str(folder / "package")), names)
    lines = (folder / "report" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    tokenizer = names["tokenizer"]
    found = generate(
        names["model"].eval(),
        tokenizer,
        [tokenizer(sample["prompt"]).input_ids for sample in samples],
        batch_size=32,
        max_new_tokens=8,
        on_progress=lambda rows: None,
    )
    return found, [sample["tuned"] for sample in samples]


@pytest.mark.slow
def test_an_encoder_learns_to_choose(train, tmp_path):
    result, folder = train("BERT")
    assert list(result["stages"]) == [
        "sanitize", "tokenize", "train", "checkpoint", "evaluate", "register",
    ]  # fmt: skip
    assert result["metrics"]["accuracy"] > train.majority + 0.1
    assert result["metrics"]["f1"] > 0.7
    assert json.loads((folder / "package" / "labels.json").read_text()) == LABELS
    found, heard = answers_of_the_card(folder)
    assert found == heard
    merged = tmp_path / "merged"
    report = json.loads(cli("merge", folder / "adapter", merged, "--json").stdout)
    assert report["max_logit_difference"] <= report["tolerance"]
    assert json.loads((merged / "config.json").read_text())["id2label"] == {
        "0": "negative",
        "1": "positive",
    }
    measured = cli(
        "evaluate", "-m", merged, "-m", folder / "adapter", "-d", tmp_path / "held.csv", "--json"
    )
    for each in json.loads(measured.stdout)["results"].values():
        assert each["metrics"]["accuracy"] == pytest.approx(result["metrics"]["accuracy"])
        assert each["samples_evaluated"] == HELD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("DistilBERT", ["--method", "qlora"]),
        ("DistilBERT", ["--4bit"]),
        ("BERT", ["--method", "full_finetuning"]),
        ("Llama", ["--task", "classification"]),
    ],
)
def test_so_it_does_by_other_methods_and_with_other_bodies(train, family, flags):
    result, folder = train(family, *flags)
    assert result["metrics"]["accuracy"] > train.majority + 0.1
    found, heard = answers_of_the_card(folder)
    assert sum(map(str.__eq__, found, heard)) >= 0.95 * HELD  # near ties of few bits may flip


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--4bit"], ["--method", "full_finetuning"]])
def test_an_encoder_decoder_learns_to_write_the_label(train, flags):
    result, folder = train("T5", *flags)
    assert result["metrics"]["exact_match"] > train.majority + 0.1
    found, heard = answers_of_the_card(folder)
    assert sum(map(str.__eq__, found, heard)) >= 0.95 * HELD


@pytest.mark.parametrize(
    ("family", "flags", "fault"),
    [
        ("BERT", ["--task", "causal"], "cannot do causal; set classification"),
        ("BERT", ["--task", "translation"], "model.task"),
        ("T5", ["--method", "instruction_tuning"], "a method other than instruction_tuning"),
    ],
)
def test_what_a_model_cannot_do_is_said_at_once(tmp_path, monkeypatch, family, flags, fault):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    rows = write_csv(tmp_path / "reviews.csv", reviews(8))
    model = save_model(family, tmp_path / family)
    outcome = finetune("--model", model, "--dataset", rows, *flags)
    assert outcome.code == 2
    assert fault in outcome.err


def test_what_it_costs_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    finished = cli("recommend", save_model("T5", tmp_path / "T5"))
    assert finished.returncode == 2
    assert "recommend is for causal models" in finished.stderr
