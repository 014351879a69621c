"""FINETUNE_DEFAULTS takes the place of the shipped defaults and limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# In a process of its own: the fields are made when the module is imported.
SCRIPT = """
import json, sys
try:
    from finetune_core.config import PipelineConfig
    config = PipelineConfig.parse({"dataset": {"path": "x"}, **json.loads(sys.argv[1])})
    print(json.dumps(config.model_dump(mode="json")))
except Exception as error:  # its class cannot be named: the package itself does not import
    print(json.dumps(error.to_dict()))
"""


def parse_under(file, **sections):
    """The config, or the error, that a process under this defaults file makes."""
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sections)],
        env=os.environ | {"FINETUNE_DEFAULTS": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    return json.loads(output.stdout)


OWN = {"training": {"epochs": {"default": 5, "max": 20}, "learning_rate": {"max": 0.0005}}}
OWN_YAML = "training: {epochs: {default: 5, max: 20}, learning_rate: {max: 0.0005}}\n"


@pytest.fixture(params=["yaml", "json"])
def own(request, tmp_path):
    file = tmp_path / f"own.{request.param}"
    file.write_text(OWN_YAML if request.param == "yaml" else json.dumps(OWN))
    return file


def test_an_own_default_and_limit_replace_the_shipped_ones(own):
    assert parse_under(own)["training"]["epochs"] == 5
    config = parse_under(own, training={"epochs": 20, "learning_rate": 0.0005})
    assert (config["training"]["epochs"], config["training"]["learning_rate"]) == (20, 0.0005)
    error = parse_under(own, training={"epochs": 21, "learning_rate": 0.00051})
    assert error["error"] == "InvalidConfigError"
    assert [path for path, _ in error["faults"]] == ["training.epochs", "training.learning_rate"]


def test_what_an_own_file_does_not_say_stays_as_shipped(own):
    error = parse_under(own, training={"epochs": 0, "batch_size": 257}, lora={"lora_rank": 3})
    assert [path for path, _ in error["faults"]] == [
        "training.epochs",
        "training.batch_size",
        "lora.lora_rank",
    ]
    assert parse_under(own)["lora"]["lora_rank"] == 16


def parse_text(tmp_path, text):
    (tmp_path / "own.yaml").write_text(text)
    return parse_under(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("training: {epoch: {max: 4}}", "training.epoch"),
        ("trainig: {epochs: {max: 4}}", "trainig.epochs"),
        ("training: {epochs: {maximum: 4}}", "training.epochs.maximum"),
        ("just text", "FINETUNE_DEFAULTS"),
        ("training: [", "FINETUNE_DEFAULTS"),
        ("", "FINETUNE_DEFAULTS"),
    ],
)
def test_an_own_file_with_a_fault_is_refused(tmp_path, text, path):
    error = parse_text(tmp_path, text)
    assert error["error"] == "InvalidConfigError"
    assert [fault[0] for fault in error["faults"]] == [path]
    assert error["source"] == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "training: {epochs: 4}",
        "training: {epochs: }",
        "training: {epochs: {max: many}}",
        "model: {torch_dtype: {max: 4}}",
    ],
)
def test_an_own_file_of_another_shape_is_refused(tmp_path, text):
    assert parse_text(tmp_path, text)["error"] == "InvalidConfigError"


def test_an_own_limit_may_be_written_as_people_write_rates(tmp_path):
    config = parse_text(tmp_path, "training: {learning_rate: {max: 5e-4}}")
    assert config["training"]["learning_rate"] == "auto"


def test_a_default_outside_of_its_own_limits_is_named_by_its_path(tmp_path):
    error = parse_text(tmp_path, "lora: {lora_rank: {max: 8}}")  # the shipped default is 16
    assert [path for path, _ in error["faults"]] == ["lora.lora_rank"]


def test_a_missing_own_file_is_named(tmp_path):
    error = parse_under(tmp_path / "nope.yaml")
    assert error["error"] == "MissingConfigError"
    assert str(tmp_path / "nope.yaml") in error["faults"][0][1]
