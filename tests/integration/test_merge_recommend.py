"""finetune-cli merge and recommend, as a person and a machine run them."""

from __future__ import annotations

import json
import subprocess
import sys

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_core.config import PipelineConfig
from tests.conftest import ROOT
from tests.integration.command import cli


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder)
    with torch.inference_mode():
        answer = model(torch.tensor([[1, 100, 200, 300]])).logits.argmax(-1)
    return folder, answer.tolist()


def test_merge_writes_a_model_that_needs_no_peft(adapter, tmp_path):
    folder, answer = adapter
    done = cli("merge", folder, tmp_path / "merged", "-b", "examples/tiny_base", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["base"] == "examples/tiny_base"
    assert report["max_logit_difference"] <= report["tolerance"]
    assert report == json.loads((tmp_path / "merged" / "merge_report.json").read_text())
    code = f"""
import sys
sys.modules["peft"] = None
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "merged")!r})
print(model(torch.tensor([[1, 100, 200, 300]])).logits.argmax(-1).tolist())
"""
    plain = run("-c", code)
    assert plain.returncode == 0, plain.stderr
    assert json.loads(plain.stdout) == answer


def test_a_person_is_told_what_is_no_adapter(tiny_base, tmp_path):
    done = cli("merge", tiny_base, tmp_path / "merged")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: the folder {tiny_base} holds no adapter")
    assert not (tmp_path / "merged").exists()


def test_recommend_measures_and_writes_a_config(tiny_base, orders, tmp_path):
    file = tmp_path / "config.yaml"
    done = cli("recommend", tiny_base, "--dataset", orders, "--output", file, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    count = found["rows"]["count"]
    assert 1000 < count < 1200  # about a tenth is held out
    assert found["steps"] == 3 * -(-count // found["batch_size"])
    assert found["measured"]["step_seconds"] > 0
    config = PipelineConfig.from_yaml(file)
    assert config.dataset.path == str(orders)
    assert config.training.method.value == found["plan"]["method"]
    assert config.training.micro_batch_size == found["micro_batch_size"]


def test_a_person_sees_the_estimate_for_a_machine_that_is_not_here(tiny_base, tmp_path):
    file = tmp_path / "config.yaml"
    done = cli("recommend", tiny_base, "--vram", 3, "--output", file)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "method full_finetuning" in lines
    assert "not measured: there is no GPU here" in lines
    assert "# put your own training file here" in file.read_text()
    assert PipelineConfig.from_yaml(file).training.method.value == "full_finetuning"
