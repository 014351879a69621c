"""finetune-cli evaluate: what a person and a machine are told of models, and of what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from finetune_core import Dataset
from finetune_core.evaluation.evaluator import ComparisonResult, Evaluator
from tests.conftest import ROOT
from tests.integration.command import cli

BASE = "examples/tiny_base"


def evaluate(*arguments):
    return cli("evaluate", *arguments)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rows = [{"q": f"bring {n} desks", "a": f"item: desk; count: {n}"} for n in range(6)]
    path = tmp_path_factory.mktemp("evaluate") / "orders.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(ROOT / BASE), config)
    model.save_pretrained(folder)
    return folder


def test_a_machine_is_told_what_the_evaluator_finds(file, adapter):
    done = evaluate(
        "-m", BASE, "-m", adapter, "-d", file, "--input-field", "q", "--output-field", "a",
        "--metrics", "loss,chrf", "--num-samples", 4, "--generation-max-length", 8,
        "--batch-size", 3, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = ComparisonResult.model_validate_json(done.stdout)
    rows = [{"question": row["q"], "answer": row["a"]} for row in map(json.loads, file.open())]
    found = Evaluator(
        ["loss", "chrf"], num_samples=4, generation_max_length=8, batch_size=3
    ).compare([BASE, adapter], Dataset("orders", rows))
    assert (told.models, told.ranking) == (found.models, found.ranking)
    assert told.best_model == told.ranking[0]
    for model, result in found.results.items():
        assert told.results[model].metrics == pytest.approx(result.metrics)
        assert told.results[model].samples_evaluated == 4
        assert set(told.results[model].intervals) == {"loss", "chrf"}


def test_a_person_sees_each_value_with_its_interval_and_the_best_model_last(file, tmp_path):
    copy = shutil.copytree(ROOT / BASE, tmp_path / "m")
    done = evaluate(
        "-m", BASE, "-m", copy, "-d", file, "--input-field", "q", "--output-field", "a",
        "--metrics", "token_accuracy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "token_accuracy" in line]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert [cell[0] for cell in cells] == ["token_accuracy"] * 2
    assert cells[0][1] == BASE
    assert cells[0][2:] == cells[1][2:]
    value, low, high = (float(part.strip("[],")) for part in cells[0][2].split())
    assert 0 <= low <= value <= high <= 1
    assert cells[0][3] == "6"
    assert done.stdout.splitlines()[-1] == f"best  {BASE}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"-m": "no/such/model"}, "there is no folder no/such/model"),
        ({"-d": "no_such.jsonl"}, "there is no dataset file no_such.jsonl"),
        ({"--metrics": "acuracy"}, "evaluation.metrics.0"),
        ({"--metrics": "no_such.py"}, "there is no file no_such.py"),
        ({"--input-field": "question"}, "missing column 'question'"),
        ({"--num-samples": "0"}, "evaluation.num_samples"),
        ({"-d": None}, "dataset.path: is required"),
    ],
)
def test_wrong_input_ends_with_code_2_and_says_what_to_mend(file, change, problem):
    arguments = {"-m": BASE, "-d": file, "--input-field": "q", "--output-field": "a"} | change
    given = [part for pair in arguments.items() if pair[1] is not None for part in pair]
    done = evaluate(*given, "--json")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert problem in done.stderr
    assert json.loads(done.stdout)["status"] == "failed"
