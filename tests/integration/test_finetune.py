"""The whole job through its command line: what it prints, what it keeps, what it registers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_core.config import PipelineConfig, Settings
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.storage import verify
from tests.integration.command import finetune, write_config

METRICS = {
    "loss",
    "perplexity",
    "token_accuracy",
    "exact_match",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
}
STAGES = ["sanitize", "tokenize", "train", "checkpoint", "evaluate", "register"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module", autouse=True)
def _home(folder):
    """A home of this module's own: what other modules have cached would be found there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(folder / "home"))
        yield


@pytest.fixture(scope="module")
def config(folder):
    return write_config(folder / "config.json")


@pytest.fixture(scope="module")
def run(folder, config):
    outcome = finetune("--config", config, "--output", folder / "out", "--name", "orders", "--json")
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def hub(run):
    return MlflowHub(Settings(), "local")


@pytest.fixture(scope="module")
def tracked(run, hub):
    return hub._client.get_run(run.json["run_id"])


def test_json_is_one_object_with_all_that_a_machine_needs(run):
    result = run.json
    assert result["status"] == "completed"
    assert re.fullmatch(r"ftjob-[0-9a-z]{24}", result["job_id"])
    assert result["model_name"] == "orders"
    assert result["model_version"] == 1
    assert set(result["metrics"]) == set(result["base_metrics"]) == METRICS
    assert list(result["stages"]) == STAGES
    assert not any(stage["cached"] for stage in result["stages"].values())
    assert sum(stage["seconds"] for stage in result["stages"].values()) <= result["duration_s"]


def test_training_helps(run):
    assert run.json["metrics"]["loss"] < run.json["base_metrics"]["loss"] - 0.5


def test_a_person_sees_each_stage_and_no_librarys_lines(run):
    lines = run.err.strip().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("✓")] == STAGES
    assert all(line.startswith(("✓", "  train  step")) for line in lines), run.err


def test_trained_tokens_are_the_rows_tokens_times_the_epochs(run, folder):
    request = json.loads(
        (folder / "out" / run.json["job_id"] / "logs" / "train-request.json").read_text()
    )
    assert run.json["trained_tokens"] == 2 * request["tokens"]["train_split"]["tokens"]


def test_every_folder_of_the_job_is_what_its_manifest_says(run, folder):
    job = folder / "out" / run.json["job_id"]
    whole = [job / "adapter", job / "report", job / "package", *job.glob("checkpoints/step-*")]
    assert len(whole) >= 4
    for each in whole:
        verify(each)
    assert PipelineConfig.from_yaml(job / "config.yaml").registry.model_name == "orders"


@pytest.mark.slow
def test_another_learning_rate_redoes_neither_sanitize_nor_tokenize(run, folder, config):
    outcome = finetune(
        "--config", config, "--output", folder / "out", "--name", "orders",
        "--learning-rate", "2e-4", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    cached = {verb: stage["cached"] for verb, stage in outcome.json["stages"].items()}
    assert cached == {verb: verb in ("sanitize", "tokenize") for verb in STAGES}
    assert outcome.json["model_version"] == 2
    assert outcome.json["job_id"] != run.json["job_id"]


def test_the_registered_version_answers_as_the_adapter_did(run, hub, tmp_path, tiny_base):
    version = hub.get("orders", run.json["model_version"])
    files = hub.download(version, tmp_path / "version")
    prompt = AutoTokenizer.from_pretrained(files).apply_chat_template(
        [{"role": "user", "content": "Send two lamps to Anna."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    logits = []
    for adapter in (run.json["adapter_dir"], files):
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        model = PeftModel.from_pretrained(base, adapter).eval()
        with torch.inference_mode():
            logits.append(model(**prompt).logits)
    with torch.inference_mode(), model.disable_adapter():
        untuned = model(**prompt).logits
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], untuned, atol=0.1)


def test_the_version_says_from_what_it_was_made(run, hub):
    version = hub.get("orders", 1)
    assert version.run_id == run.json["run_id"]
    assert version.tags["job_id"] == run.json["job_id"]
    assert version.tags["base_model"] == "examples/tiny_base"
    assert version.tags["method"] == "lora"
    for digest in ("dataset_digest", "config_digest", "adapter_digest", "tokenizer_digest"):
        assert re.fullmatch(r"[0-9a-f]{64}", version.tags[digest])


def test_the_card_tells_metrics_data_config_and_how_to_load(run, hub, tmp_path):
    files = hub.download(hub.get("orders", 1), tmp_path / "version")
    card = (files / "README.md").read_text()
    assert f"| exact_match | {run.json['base_metrics']['exact_match']:.4f} [" in card
    assert "| training.learning_rate | 0.001 |" in card
    assert "PeftModel.from_pretrained" in card
    assert "train.jsonl" in card


def test_mlflow_has_the_curves_with_one_value_a_step(tracked, hub):
    for name in ("train_loss", "grad_norm", "learning_rate", "tokens_per_s"):
        points = hub._client.get_metric_history(tracked.info.run_id, name)
        assert [point.step for point in points] == [1, 5, 10]
        assert all(point.value > 0 for point in points)
    validations = hub._client.get_metric_history(tracked.info.run_id, "valid_loss")
    assert [point.step for point in validations] == [6, 12]
    assert validations[1].value < validations[0].value


def test_mlflow_has_config_data_report_and_machine(tracked, hub, tmp_path):
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["training.learning_rate"] == "0.001"
    assert tracked.data.params["data.rows"] == "256"
    assert tracked.data.metrics["exact_match"] >= tracked.data.metrics["base_exact_match"]
    assert tracked.data.metrics["epoch_seconds"] > 0
    assert "system/cpu_utilization_percentage" in tracked.data.metrics
    dataset = tracked.inputs.dataset_inputs[0].dataset
    assert dataset.name == "train.jsonl"
    files = {file.path for file in hub._client.list_artifacts(tracked.info.run_id)}
    assert {"config.yaml", "loss_curve.png", "report.md", "samples.json", "data"} <= files
    data = {file.path for file in hub._client.list_artifacts(tracked.info.run_id, "data")}
    assert data == {"data/ledger.parquet", "data/data.html"}
    path = hub._client.download_artifacts(tracked.info.run_id, "data/data.html", str(tmp_path))
    assert "<mark>" in Path(path).read_text()
    path = hub._client.download_artifacts(tracked.info.run_id, "samples.json", str(tmp_path))
    table = json.loads(Path(path).read_text())
    assert {"prompt", "expected", "base", "tuned"} <= set(table["columns"])
    assert len(table["data"]) == 16
