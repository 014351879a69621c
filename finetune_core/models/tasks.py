"""The tasks of models: a record each, and how a model's task is found, without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_core.config.defaults import default
from finetune_core.config.sections import ModelConfig, TokenizationConfig
from finetune_core.exceptions import (
    AdapterError,
    Fault,
    IncompatibleConfigError,
    InvalidConfigError,
    ModelLoadError,
)
from finetune_core.models.source import find_model
from finetune_core.storage import write_json
from finetune_core.types import EvaluationMetric, Task, Template, TooLong

# The encoders of transformers, by the `model_type` of their configs.
ENCODERS = frozenset(
    """
    albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra
    ernie esm eurobert flaubert funnel ibert layoutlm longformer luke megatron-bert mobilebert
    modernbert mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roc_bert
    roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod yoso
    """.split()  # noqa: SIM905 - a list would take a line a name
)
MASKED = ("ForMaskedLM", "ForPreTraining", "ForTokenClassification", "ForQuestionAnswering")
CHOOSES = "ForSequenceClassification"
LABELS = "labels.json"


@dataclass(frozen=True)
class Kind:
    """What differs between tasks.

    Attributes:
        loader: The class of transformers that loads such a model.
        peft: What peft calls the task.
        metrics: The setting that names what is measured where nobody says.
    """

    loader: str
    peft: str
    metrics: str = "evaluation.text_metrics"


KINDS = {
    Task.CAUSAL: Kind("AutoModelForCausalLM", "CAUSAL_LM"),
    Task.SEQ2SEQ: Kind("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    Task.CLASSIFICATION: Kind(
        "AutoModelForSequenceClassification", "SEQ_CLS", "evaluation.label_metrics"
    ),
}


def find_task(config: ModelConfig) -> Task:
    """The task that a config forces, or else the one that a model was made for.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: Its config is no JSON object.
        InvalidConfigError: The model cannot do the task that is forced.
    """
    values = read_model_config(config)
    architecture = next(iter(values.get("architectures") or ()), "")
    made_for = _made_for(architecture, values)
    if config.task == "auto" or config.task is made_for:
        return made_for
    if config.task is Task.CLASSIFICATION:  # whatever reads can be given a head for that
        return config.task
    if made_for is Task.CLASSIFICATION and _made_for("", values) is config.task:
        return config.task  # a head that chooses is on a body that writes
    able = " or ".join(dict.fromkeys([made_for.value, Task.CLASSIFICATION.value]))
    raise InvalidConfigError(
        [
            Fault(
                "model.task",
                f"the model {config.name} ({values.get('model_type', 'of no named type')}) cannot "
                f"do {config.task.value}; set {able}, or leave it at auto",
            )
        ]
    )


def task_named(name: str | None) -> Task | Literal["auto"]:
    """The task that an adapter's config calls by peft's name; `auto` where it names none."""
    found = (task for task, kind in KINDS.items() if kind.peft == name)
    return next(found, "auto")


def task_of(model: Any) -> Task:
    """The task of a model that is loaded, with an adapter or without."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _made_for(type(base).__name__, base.config.to_dict())


def _made_for(architecture: str, values: Mapping[str, Any]) -> Task:
    """The task of a class of transformers with such a config."""
    if architecture.endswith(CHOOSES):
        return Task.CLASSIFICATION
    if values.get("is_encoder_decoder"):
        return Task.SEQ2SEQ
    reads = architecture.endswith(MASKED) or values.get("model_type") in ENCODERS
    return Task.CLASSIFICATION if reads and not values.get("is_decoder") else Task.CAUSAL


def read_model_config(config: ModelConfig) -> dict[str, Any]:
    """A model's own config.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: It is no JSON object.
    """
    file = find_model(config) / "config.json"
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelLoadError(f"{file} holds no config, but {type(values).__name__}")
    return values


def write_labels(folder: Path, names: Mapping[int, str]) -> None:
    """Writes the labels that an adapter's model chooses from, by number."""
    write_json(folder / LABELS, label_names(names))


def read_labels(folder: Path) -> list[str]:
    """The labels of an adapter's folder; none where its model does not choose.

    Raises:
        AdapterError: The file is no list of names.
    """
    file = folder / LABELS
    if not file.is_file():
        return []
    try:
        labels = json.loads(file.read_text())
    except ValueError as error:
        raise AdapterError(f"{file} is not JSON ({error})") from None
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise AdapterError(f"{file} should be a list of the labels' names")
    return labels


def label_names(names: Mapping[int, str]) -> list[str]:
    """The labels of a model's `id2label`, in their order."""
    return [names[number] for number in sorted(names)]


def default_metrics(task: Task) -> list[EvaluationMetric]:
    """What is measured on the answers of a model where nobody says what."""
    return [EvaluationMetric(name) for name in default(KINDS[task].metrics)]


def fit_tokenization(
    config: TokenizationConfig, task: Task, model: Mapping[str, Any], most: int
) -> TokenizationConfig:
    """How a model's rows become tokens: an encoder with places for so many reads no more.

    Args:
        config: What is asked.
        task: The model's.
        model: Its own config.
        most: The tokenizer's `model_max_length`.

    Raises:
        IncompatibleConfigError: The task has no place for what is asked.
    """
    if task is Task.CAUSAL:
        return config
    faults = []
    if config.too_long is TooLong.SPLIT:
        problem = f"a row for {task.value} has one answer and cannot be split; truncate or drop it"
        faults.append(Fault("tokenization.too_long", problem))
    if config.template in (Template.CHAT, Template.INSTRUCTION):
        problem = (
            f"{config.template.value} is for models that write on, and this one does {task.value}; "
            "leave it at auto, and choose a method other than instruction_tuning, which sets it"
        )
        faults.append(Fault("tokenization.template", problem))
    if faults:
        raise IncompatibleConfigError(faults)
    places = model.get("max_position_embeddings")
    if places is None:
        return config
    return config.model_copy(update={"max_length": min(config.max_length, places, most)})


def find_tokenization(
    config: TokenizationConfig, model: ModelConfig
) -> tuple[Task, TokenizationConfig]:
    """A named model's task, and `fit_tokenization` for it; raises as both."""
    task = find_task(model)
    file = find_model(model) / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    most = int(settings.get("model_max_length") or sys.maxsize)
    return task, fit_tokenization(config, task, read_model_config(model), most)
