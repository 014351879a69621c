"""Evaluator: models found by their names, measured and ranked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from finetune_core import Dataset
from finetune_core.config import DatasetConfig, EvaluationConfig, TokenizationConfig
from finetune_core.evaluation.benchmark import BenchmarkRunner
from finetune_core.evaluation.evaluator import CompareRequest, Evaluator, compare
from finetune_core.exceptions import (
    AdapterError,
    InvalidConfigError,
    ModelLoadError,
    ModelNotFoundError,
)

ORDERS = Dataset(
    "orders",
    [
        {"prompt": "please bring me 7 red chairs", "completion": "item: chair; count: 7"},
        {"prompt": "a lamp", "completion": "item: lamp; count: 1"},
        {"prompt": "bring 9 desks", "completion": "item: desk; count: 9"},
    ],
)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def adapted(tiny_base):
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)


@pytest.fixture
def adapter(tmp_path, tiny_base):
    """An adapter as peft writes it, which names its base; no tokenizer is beside it."""
    folder = tmp_path / "adapter"
    adapted(tiny_base).save_pretrained(folder)
    return folder


@pytest.fixture
def worse(tmp_path, tiny_base):
    """The base with its head overwritten: surely the worse one, and a whole model."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "worse"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(tiny_base / name, folder)
    return folder


def evaluator(*metrics, **settings):
    return Evaluator(list(metrics), **{"generation_max_length": 12, "batch_size": 2} | settings)


def test_a_folder_is_measured_by_its_accuracy_where_nothing_else_is_said(tiny_base):
    result = Evaluator().evaluate(str(tiny_base), ORDERS)
    assert result.model == str(tiny_base)
    assert list(result.metrics) == list(result.intervals) == ["accuracy"]
    assert result.samples_evaluated == 3
    assert result.duration > 0


def test_an_adapter_is_measured_on_the_base_that_it_names(adapter, tiny_base):
    from finetune_core.data.encode import load_tokenizer

    result = evaluator("loss", "chrf").evaluate(adapter, ORDERS)
    config = EvaluationConfig(metrics=["loss", "chrf"], generation_max_length=12, batch_size=2)
    live = BenchmarkRunner(config, load_tokenizer(tiny_base)).evaluate(adapted(tiny_base), ORDERS)
    assert result.metrics == pytest.approx(live.scores)
    base = evaluator("loss").evaluate(tiny_base, ORDERS)
    assert result.metrics["loss"] != pytest.approx(base.metrics["loss"], rel=1e-3)


def test_an_adapter_may_bring_tokens_that_its_base_has_not(tmp_path, tiny_base):
    import peft
    from transformers import AutoModelForCausalLM

    from finetune_core.data.encode import load_tokenizer

    folder = tmp_path / "adapter"
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.add_tokens(["<|shelf|>", "<|stool|>"])
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.resize_token_embeddings(len(tokenizer))
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    for each in (model, tokenizer):
        each.save_pretrained(folder)
    rows = Dataset("orders", [{"prompt": "a <|shelf|>", "completion": "item: <|shelf|>"}])
    live = BenchmarkRunner(EvaluationConfig(metrics=["loss"]), tokenizer).evaluate(model, rows)
    assert evaluator("loss").evaluate(folder, rows).metrics == pytest.approx(live.scores)


def test_the_tokenizer_beside_an_adapter_goes_before_its_bases(adapter, tiny_base):
    before = evaluator("loss").evaluate(adapter, ORDERS)
    for name in TOKENIZER:
        shutil.copy(tiny_base / name, adapter)
    template = adapter / "chat_template.jinja"
    template.write_text(template.read_text().replace("bos_token", "bos_token ~ 'Be brief.'"))
    assert evaluator("loss").evaluate(adapter, ORDERS).metrics != before.metrics


def test_models_are_ranked_by_the_first_metric(tiny_base, worse):
    models = [str(worse), str(tiny_base)]
    result = evaluator("token_accuracy", "loss").compare(models, ORDERS)
    assert result.models == models
    assert result.ranking == models[::-1]
    assert result.best_model == str(tiny_base)
    assert set(result.results) == set(models)
    scores = [result.results[model].metrics["token_accuracy"] for model in result.ranking]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_less_loss_and_less_perplexity_are_better(tiny_base, worse, metric):
    result = evaluator(metric).compare([worse, tiny_base], ORDERS)
    values = [result.results[model].metrics[metric] for model in result.ranking]
    assert values == sorted(values)
    assert result.best_model == str(tiny_base)


def test_equal_models_are_ranked_as_they_were_given_and_measured_once_each(tmp_path, tiny_base):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    result = evaluator("loss").compare([copy, tiny_base, copy], ORDERS)
    assert result.models == result.ranking == [str(copy), str(tiny_base)]


def test_a_model_that_is_not_there_is_found_out_before_any_is_measured(tiny_base, tmp_path):
    events = []
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        evaluator("loss", emit=events.append).compare([tiny_base, tmp_path], ORDERS)
    assert events == []


def test_an_adapter_whose_base_is_gone_is_refused(adapter, tmp_path):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "gone"}))
    with pytest.raises(ModelNotFoundError, match="gone"):
        evaluator("loss").evaluate(adapter, ORDERS)
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(AdapterError, match="names no base"):
        evaluator("loss").evaluate(adapter, ORDERS)


def test_an_adapter_that_is_damaged_is_refused(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AdapterError, match="does not load"):
        evaluator("loss").evaluate(adapter, ORDERS)


def test_code_in_a_models_folder_is_not_run(tmp_path, tiny_base):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    mark = tmp_path / "was_run"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "of_its_own"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError):
        evaluator("loss").evaluate(folder, ORDERS)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"metrics": ["acuracy"]}, r"metrics\.0: .*'accuracy'.*acuracy"),
        ({"metrics": []}, "metrics: needs one or more"),
        ({"metrics": ["no/such.py"]}, r"there is no file no/such\.py"),
        ({"metrics": ["loss", "execution_accuracy"]}, "execution_accuracy executes queries"),
        ({"num_samples": 0}, "num_samples"),
        ({"samples": 5}, "samples: is not a setting"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(arguments, problem):
    with pytest.raises(InvalidConfigError, match=problem):
        Evaluator(**arguments)


def test_no_model_is_nothing_to_compare():
    with pytest.raises(InvalidConfigError, match="models: needs one or more"):
        Evaluator().compare([], ORDERS)


def test_a_request_says_all_that_an_evaluator_is_told(tmp_path, tiny_base, adapter):
    file = tmp_path / "orders.jsonl"
    ORDERS.save(file)
    models = [str(tiny_base), str(adapter)]
    request = CompareRequest(
        models=models,
        dataset=DatasetConfig(path=str(file)),
        tokenization=TokenizationConfig(max_length=32),
        evaluation=EvaluationConfig(metrics=["loss", "bleu"], num_samples=1),
    )
    events = []
    asked = compare(CompareRequest.model_validate_json(request.model_dump_json()), events.append)
    told = Evaluator(
        ["loss", "bleu"], tokenization=TokenizationConfig(max_length=32), num_samples=1
    ).compare(models, ORDERS)
    assert asked.ranking == told.ranking
    assert [asked.results[model].metrics for model in models] == [
        told.results[model].metrics for model in models
    ]
    assert events[-1]["done"] == events[-1]["total"]


def test_importing_it_loads_no_torch():
    code = (
        "import sys, finetune_core.evaluation.evaluator as _;"
        "assert not {'torch', 'transformers', 'peft', 'evaluate'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
