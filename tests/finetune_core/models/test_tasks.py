"""The task of a model is told by its config, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from finetune_core.config import ModelConfig, TokenizationConfig
from finetune_core.exceptions import (
    AdapterError,
    IncompatibleConfigError,
    InvalidConfigError,
    ModelLoadError,
)
from finetune_core.models.tasks import (
    find_task,
    find_tokenization,
    fit_tokenization,
    read_labels,
    task_named,
    write_labels,
)
from finetune_core.types import Task

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
JUDGE = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}


@pytest.fixture
def model(tmp_path):
    def model(values, task="auto"):
        (tmp_path / "config.json").write_text(json.dumps(values))
        return ModelConfig(name=str(tmp_path), task=task)

    return model


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (LLAMA, "causal"),
        ({"model_type": "never heard of", "architectures": ["NewForCausalLM"]}, "causal"),
        ({"model_type": "llama"}, "causal"),
        (T5, "seq2seq"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "seq2seq"),
        (BERT, "classification"),
        ({"model_type": "distilbert", "architectures": ["DistilBertModel"]}, "classification"),
        ({"model_type": "roberta"}, "classification"),
        ({"model_type": "new", "architectures": ["NewForMaskedLM"]}, "classification"),
        ({**BERT, "architectures": ["BertLMHeadModel"], "is_decoder": True}, "causal"),
        (JUDGE, "classification"),
        ({**T5, "architectures": ["T5ForSequenceClassification"]}, "classification"),
    ],
)
def test_it_is_found(model, values, task):
    assert find_task(model(values)).value == task


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (LLAMA, "causal"),
        (LLAMA, "classification"),
        (T5, "classification"),
        (BERT, "classification"),
        (JUDGE, "causal"),
    ],
)
def test_what_a_model_can_do_can_be_forced(model, values, task):
    assert find_task(model(values, task)).value == task


@pytest.mark.parametrize(
    ("values", "task", "able"),
    [
        (LLAMA, "seq2seq", "causal or classification"),
        (T5, "causal", "seq2seq or classification"),
        (BERT, "causal", "classification"),
        (BERT, "seq2seq", "classification"),
    ],
)
def test_what_it_cannot_do_is_refused(model, values, task, able):
    with pytest.raises(InvalidConfigError, match=f"cannot do {task}; set {able}, or"):
        find_task(model(values, task))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_config_that_is_none(model, tmp_path, text):
    config = model({})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        find_task(config)


def test_it_is_told_without_torch(tiny_base):
    script = (
        "import sys; from finetune_core.config import ModelConfig; "
        "from finetune_core.models.tasks import find_task; "
        f"assert find_task(ModelConfig(name={str(tiny_base)!r})).value == 'causal'; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class TestTokenization:
    """What of the section fits a task."""

    def test_an_encoder_reads_no_more_tokens_than_it_has_places(self, model, tmp_path):
        config = model({**BERT, "max_position_embeddings": 514})
        (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
        task, fitted = find_tokenization(TokenizationConfig(), config)
        assert (task, fitted.max_length) == (Task.CLASSIFICATION, 512)
        _, fitted = find_tokenization(TokenizationConfig(max_length=100), config)
        assert fitted.max_length == 100

    def test_one_whose_places_are_relative_reads_what_is_asked(self, model, tmp_path):
        config = model(T5)
        (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
        assert find_tokenization(TokenizationConfig(), config)[1].max_length == 1024

    def test_a_causal_model_is_left_alone(self):
        config = TokenizationConfig(too_long="split", template="chat")
        places = {"max_position_embeddings": 64}
        assert fit_tokenization(config, Task.CAUSAL, places, 64) is config

    @pytest.mark.parametrize("task", [Task.SEQ2SEQ, Task.CLASSIFICATION])
    def test_what_has_no_place_is_refused_all_together(self, task):
        config = TokenizationConfig(too_long="split", template="instruction")
        with pytest.raises(IncompatibleConfigError) as caught:
            fit_tokenization(config, task, {}, 512)
        assert [fault.path for fault in caught.value.faults] == [
            "tokenization.too_long",
            "tokenization.template",
        ]


def test_labels_are_written_and_read_in_their_order(tmp_path):
    assert read_labels(tmp_path) == []
    write_labels(tmp_path, {1: "b", 0: "z", 10: "a", 2: "ü"})
    assert read_labels(tmp_path) == ["z", "b", "ü", "a"]


@pytest.mark.parametrize("text", ["{", '{"0": "a"}', "[1]"])
def test_a_file_of_labels_that_is_none(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(AdapterError, match=r"labels\.json"):
        read_labels(tmp_path)


def test_pefts_names_of_tasks():
    names = ["CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", None]
    assert [task_named(name) for name in names] == [*Task, "auto"]
