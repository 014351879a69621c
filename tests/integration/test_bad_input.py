"""Wrong input: a clear error, exit code 2, and nothing left behind that looks finished."""

from __future__ import annotations

import json
import os

import pytest

from tests.integration.command import finetune, write_config

pytestmark = pytest.mark.usefixtures("_server")

GOOD = '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n'


@pytest.fixture
def _server(monkeypatch, prefect_server):
    for name, value in prefect_server.items():
        monkeypatch.setenv(name, value)


def refuse(tmp_path, *arguments, expect: list[str], **environment) -> None:
    """Runs the command and checks that it refuses in the words expected."""
    out = tmp_path / "out"
    outcome = finetune(*arguments, "--output", out, "--json", **environment)
    assert outcome.code == 2, outcome.err
    assert "\nerror: " in "\n" + outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for words in expect:
        assert words in outcome.err
    assert outcome.json["status"] == "failed"
    assert not list(out.glob("*/adapter")) + list(out.glob("*/report"))


@pytest.mark.parametrize(
    ("name", "content", "expect"),
    [
        ("empty.jsonl", "", ["empty.jsonl has no rows"]),
        ("broken.jsonl", GOOD + "{oops\n", ["broken.jsonl, line 3: is not JSON"]),
        ("broken.json", "[{]", ["broken.json, at its first row: is not JSON"]),
        ("list.jsonl", GOOD + "[1, 2]\n", ["list.jsonl, row 3", "object", "found list"]),
        ("mapping.json", '{"a": 1}', ["mapping.json: no format fits the columns: a"]),
        (
            "columns.csv",
            "title,body\nx,y\n",
            ["title, body", "prompt, completion", "--input-field"],
        ),
        ("one.jsonl", '{"prompt": "a", "completion": "b"}\n', ["1 to learn from, 0 held out"]),
        ("table.xlsx", "x", [".xlsx", ".jsonl, .json, .csv, .parquet"]),
    ],
)
def test_a_dataset_that_cannot_teach(tmp_path, name, content, expect):
    (tmp_path / name).write_text(content)
    refuse(tmp_path, "--dataset", tmp_path / name, expect=expect)


def test_no_such_dataset(tmp_path):
    refuse(tmp_path, "--dataset", "nowhere.jsonl", expect=["no dataset file nowhere.jsonl"])


def test_no_dataset_at_all(tmp_path):
    refuse(tmp_path, expect=["dataset.path: is required"])


def test_named_columns_that_are_not_there(tmp_path, orders):
    refuse(
        tmp_path, "--dataset", orders, "--input-field", "question", "--output-field", "answer",
        expect=["missing column 'question', 'answer'", "prompt, completion"],
    )  # fmt: skip


def test_no_such_model(tmp_path, orders):
    refuse(
        tmp_path, "--dataset", orders, "--model", "examples/nothing",
        expect=["there is no folder examples/nothing", "--model"],
    )  # fmt: skip


def test_a_folder_without_a_model(tmp_path, orders):
    refuse(tmp_path, "--dataset", orders, "--model", tmp_path, expect=["no config.json"])


def test_five_faults_are_shown_together(tmp_path, orders):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "dataset": {"path": str(orders), "input_field": "prompt"},
                "training": {"epochs": 11, "learning_rate": "fast", "epoch": 3},
                "lora": {"lora_rank": 2},
            }
        )
    )
    refuse(
        tmp_path, "--config", config,
        expect=[
            "5 faults",
            "training.epochs: should be less than or equal to 10 (got 11)",
            "training.learning_rate",
            "training.epoch: is not a setting (did you mean epochs?)",
            "lora.lora_rank: should be greater than or equal to 4 (got 2)",
            "dataset.output_field: is needed",
        ],
    )  # fmt: skip


def test_an_output_that_is_a_file(tmp_path, orders):
    (tmp_path / "out").write_text("")
    outcome = finetune("--dataset", orders, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert "cannot be written" in outcome.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_is_not_writable(tmp_path, orders):
    (tmp_path / "out").mkdir(mode=0o500)
    refuse(tmp_path, "--dataset", orders, expect=["cannot be written: Permission denied"])


def test_a_job_that_is_not_there(tmp_path):
    refuse(tmp_path, "--resume", "ftjob-0", expect=["there is no job ftjob-0"])


def test_an_adapter_on_modules_that_the_model_does_not_have(tmp_path):
    config = write_config(tmp_path / "c.json", lora={"target_modules": ["c_attn", "q_proj"]})
    refuse(tmp_path, "--config", config, expect=["no module named c_attn", "k_proj", "down_proj"])
