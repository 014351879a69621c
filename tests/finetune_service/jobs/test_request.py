"""What a request may say, and the config that it makes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_core.config.pipeline import PipelineConfig
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.base_models import BaseModels
from finetune_service.jobs.creation import check_text
from finetune_service.jobs.request import NewJob, build_config, gate_files, resolved
from tests.conftest import ROOT

FILE = "file-06gzty25r5v9nns1bbv75g4k"


def config_of(**fields) -> PipelineConfig:
    wanted = NewJob.model_validate({"model": "base", "training_file": FILE, **fields})
    return build_config(wanted, base="/models/base", training="/data.jsonl", validation=None)


def test_the_least_that_can_be_said():
    config = config_of()
    assert (config.model.name, config.dataset.path) == ("/models/base", "/data.jsonl")
    assert config.registry.model_name == "base"
    assert config.training == PipelineConfig.parse({"dataset": {"path": "x"}}).training


@pytest.mark.parametrize(
    "fields",
    [
        {"hyperparameters": {"n_epochs": 2, "batch_size": 8, "lora_rank": 8}},
        {"method": {"type": "supervised", "supervised": {
            "hyperparameters": {"n_epochs": 2, "batch_size": 8, "lora_rank": 8}}}},
        {"method": {"type": "lora", "lora": {"hyperparameters": {"n_epochs": 2}}},
         "hyperparameters": {"batch_size": 8}, "lora_rank": 8},
        {"method": "lora", "config": {"training": {"num_epochs": 2, "batch_size": 8},
                                      "lora": {"r": 8}}},
    ],
)  # fmt: skip
def test_each_form_makes_the_same(fields):
    config = config_of(**fields)
    assert (config.training.epochs, config.training.batch_size) == (2, 8)
    assert config.lora.lora_rank == 8
    wanted = NewJob.model_validate({"model": "base", "training_file": FILE, **fields})
    assert resolved(wanted, config) == {
        "n_epochs": 2,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "lora_rank": 8,
        "lora_alpha": 32.0,
    }


def gated(**gate):
    config = {"registry": {"gate": gate}}
    return NewJob.model_validate({"model": "base", "training_file": FILE, "config": config})


def test_the_gates_files_are_uploaded_ones():
    wanted = gated(regression_path=FILE, max_forgetting=0.2)
    assert gate_files(wanted) == {"regression_path": FILE}
    config = build_config(
        wanted,
        base="/models/base",
        training="/data.jsonl",
        validation=None,
        gate={"regression_path": "/cases.jsonl"},
    )
    assert config.registry.gate.regression_path == "/cases.jsonl"
    assert config.registry.gate.max_forgetting == 0.2
    assert gate_files(NewJob.model_validate({"model": "base", "training_file": FILE})) == {}


@pytest.mark.parametrize("name", ["regression_path", "general_path"])
@pytest.mark.parametrize("value", ["/etc/passwd", "cases.jsonl", 7, ["x"]])
def test_the_gates_files_are_no_paths_of_the_server(name, value):
    with pytest.raises(InvalidValueError, match="the id of an uploaded file") as caught:
        gate_files(gated(**{name: value}))
    assert caught.value.param == f"config.registry.gate.{name}"


def test_the_gates_metric_is_no_code():
    with pytest.raises(InvalidValueError, match="cannot name code"):
        config_of(config={"registry": {"gate": {"metric": "/tmp/x.py"}}})


def test_auto_is_as_if_it_was_not_said():
    names = ("n_epochs", "batch_size", "learning_rate_multiplier")
    assert config_of(hyperparameters=dict.fromkeys(names, "auto")) == config_of()


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-4), ("full_finetuning", 5e-5)])
def test_the_multiplier_multiplies_the_methods_own_rate(method, rate):
    config = config_of(method=method, hyperparameters={"learning_rate_multiplier": 0.5})
    assert config.training.learning_rate == rate / 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"config": {"dataset": {"path": "/etc/passwd"}}}, "config.dataset.path"),
        ({"config": {"dataset": {"validation_path": "x"}}}, "config.dataset.validation_path"),
        ({"config": {"dataset": {"evaluation_path": "x"}}}, "config.dataset.evaluation_path"),
        ({"config": {"dataset": {"source": "hub"}}}, "config.dataset.source"),
        ({"config": {"model": {"name": "../x"}}}, "config.model.name"),
        ({"config": {"training": {"output_dir": "/tmp"}}}, "config.training.output_dir"),
        ({"config": {"evaluation": {"metrics": ["evil.py"]}}}, "config.evaluation.metrics"),
        ({"config": {"registry": {"model_name": "../other"}}}, "config.registry.model_name"),
        ({"config": {"nothing": {}}}, "config.nothing"),
        ({"config": {"training": {"nothing": 1}}}, "config.training.nothing"),
        ({"config": {"training": {"epochs": 99}}}, "config.training.epochs"),
        ({"hyperparameters": {"n_epochs": 50}}, "hyperparameters.n_epochs"),
        ({"lora_rank": 1}, "lora_rank"),
        ({"hyperparameters": {"lora_rank": 8}, "lora_rank": 8}, "hyperparameters.lora_rank"),
        ({"seed": 1, "config": {"training": {"seed": 2}}}, "seed"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e9}},
         "hyperparameters.learning_rate_multiplier"),
        ({"method": {"type": "lora", "qlora": {}}}, "method.qlora"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_of_the_field_that_it_came_by(fields, param):
    with pytest.raises(InvalidValueError) as refused:
        config_of(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"method": {"type": "dpo"}}, ("method", "type")),
        ({"method": "reinforcement"}, ("method", "type")),
        ({"method": "nothing"}, ("method", "type")),
        ({"nothing": 1}, ("nothing",)),
        ({"hyperparameters": {"nothing": 1}}, ("hyperparameters", "nothing")),
        ({"hyperparameters": {"n_epochs": 0}}, ("hyperparameters", "n_epochs")),
        ({"hyperparameters": {"n_epochs": 51}}, ("hyperparameters", "n_epochs")),
        ({"hyperparameters": {"n_epochs": "2"}}, ("hyperparameters", "n_epochs")),
        ({"hyperparameters": {"batch_size": 257}}, ("hyperparameters", "batch_size")),
        ({"hyperparameters": {"learning_rate_multiplier": 0}},
         ("hyperparameters", "learning_rate_multiplier")),
        ({"hyperparameters": {"learning_rate_multiplier": float("nan")}},
         ("hyperparameters", "learning_rate_multiplier")),
        ({"suffix": ""}, ("suffix",)),
        ({"suffix": "…"}, ("suffix",)),
        ({"suffix": "x" * 65}, ("suffix",)),
        ({"seed": -1}, ("seed",)),
        ({"integrations": [{"type": "wandb"}]}, ("integrations",)),
        ({"metadata": {str(n): "" for n in range(17)}}, ("metadata",)),
        ({"metadata": {"k" * 65: ""}}, ("metadata",)),
        ({"metadata": {"k": "v" * 513}}, ("metadata",)),
        ({"config": {"training": 3}}, ("config", "training")),
    ],
)  # fmt: skip
def test_what_no_request_may_say(fields, where):
    with pytest.raises(ValidationError) as refused:
        config_of(**fields)
    assert refused.value.errors()[0]["loc"] == where


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "a\ud800"}, "suffix"),
        ({"metadata": {"k": "\0"}}, "metadata.k"),
        ({"metadata": {"\udfff": "v"}}, "metadata.?"),
        ({"config": {"dataset": {"system_prompt": "\0"}}}, "config.dataset.system_prompt"),
        ({"config": {"lora": {"target_modules": ["\ud800"]}}}, "config.lora.target_modules"),
    ],
)
def test_text_that_is_none_is_refused(fields, param):
    wanted = {"model": "base", "training_file": FILE, "suffix": None, **fields}
    with pytest.raises(InvalidValueError) as refused:
        check_text(wanted)
    assert refused.value.param == param


class TestBaseModels:
    @pytest.fixture
    def bases(self, tmp_path) -> BaseModels:
        file = tmp_path / "models.yaml"
        file.write_text("tiny: /models/tiny\n")
        return BaseModels(file)

    def test_a_listed_name_is_a_folder_and_an_id_the_hubs(self, bases):
        assert bases.find("tiny") == "/models/tiny"
        assert bases.find("meta-llama/Llama-3.2-1B") == "meta-llama/Llama-3.2-1B"
        assert bases.find("gpt2") == "gpt2"

    def test_a_name_that_is_added_is_known_at_once(self, bases, tmp_path):
        (tmp_path / "models.yaml").write_text("tiny: /a\nother: /b\n")
        assert bases.listed().keys() == {"tiny", "other"}

    @pytest.mark.parametrize(
        "name",
        ["/models/tiny", "../tiny", "a/../b", "~/x", "./x", "a//b", "a/b/c", "file:///etc", "a\\b",
         "x\n", "", "examples/tiny_base", "examples", "ft:tiny:acme::12345678", "..", "a/.."],
    )  # fmt: skip
    def test_no_path_is_a_name(self, bases, monkeypatch, name):
        monkeypatch.chdir(ROOT)
        with pytest.raises(InvalidValueError) as refused:
            bases.find(name)
        assert refused.value.param == "model"
