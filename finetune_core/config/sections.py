"""The sections of a pipeline's config. Defaults and limits stand in defaults.yaml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from finetune_core.config.defaults import default, setting, setting_or_auto, within
from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.section import Section
from finetune_core.types import (
    DatasetFormat,
    DatasetSource,
    EvaluationMetric,
    Precision,
    Scheduler,
    Strategy,
    Task,
    Template,
    TooLong,
    TrainingMethod,
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]


def _free_alias(alias: str) -> str:
    if alias.lower() == "latest" or re.fullmatch(r"[vV]?[0-9]+", alias):
        raise ValueError("is a name that MLflow keeps for versions")
    return alias


def _metric_file(path: str) -> str:
    if not path.endswith(".py"):
        raise ValueError("should be the file of an `evaluate` module, which ends with .py")
    return path


def _pattern(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return expression


Alias = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$"),
    AfterValidator(_free_alias),
]
MetricFile = Annotated[str, AfterValidator(_metric_file)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Pattern = Annotated[Name, AfterValidator(_pattern)]


class ModelConfig(Section):
    """The base model."""

    name: Name = setting("model.name")
    """A folder, or the id of a model on the hub."""

    revision: str | None = None
    """The hub revision: a branch, a tag or a commit."""

    task: Task | Literal["auto"] = setting("model.task")
    """What it learns: causal: to write on; seq2seq: to read a text and write another;
    classification: to choose one of the labels; auto is what its config says it was made for."""

    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = setting("model.torch_dtype")
    """The type of the loaded weights, and of what a quantised base computes; auto is bfloat16 where
    the device has it, else float32; weights that are all trained are float32."""

    quantization_bits: Literal[4, 8] = setting("model.quantization_bits")
    """The bits of the base's weights, for the method that quantises it, qlora."""


class DatasetConfig(Section):
    """The rows to learn from, and those that are held out to choose and to measure by."""

    path: Name
    """The training file: JSON, JSONL, CSV (also .gz, .zst) or Parquet, or a folder of these; for
    the source hub, the dataset's id."""

    source: DatasetSource = DatasetSource.LOCAL_FILE
    """Where the path leads."""

    subset: str | None = None
    """The hub dataset's subset, where it has several."""

    split: Name = "train"
    """The hub dataset's split to learn from."""

    revision: str | None = None
    """The hub dataset's revision: a branch, a tag or a commit."""

    validation_path: str | None = None
    """A file of held-out rows, by which the best checkpoint is chosen; without it, a share of
    the training rows is held out."""

    validation_split: str | None = None
    """The same, as a split of the hub dataset."""

    validation_ratio: float = setting("dataset.validation_ratio")
    """The share of rows held out where there is neither."""

    evaluation_path: str | None = None
    """A file of rows on which base and tuned model are compared; without it, the held-out rows."""

    evaluation_split: str | None = None
    """The same, as a split of the hub dataset."""

    format: DatasetFormat | None = None
    """What a row looks like; found from the columns' names where it is not given."""

    input_field: str | None = None
    """The column of the prompt; found from the columns' names where it is not given."""

    output_field: str | None = None
    """The column of the answer; found from the columns' names where it is not given."""

    system_prompt: str | None = None
    """A system message that is put before each row that has none."""

    max_samples: int | None = Field(None, ge=1)
    """Read only so many rows of the training file, from the first on."""

    max_unpacked_mb: int = setting("dataset.max_unpacked_mb")
    """The MiB that one file may unpack to."""

    seed: int = Field(42, ge=0)
    """Decides which rows are held out."""

    sanitize: SanitizeConfig = Field(default_factory=SanitizeConfig)
    """What each rule does with the rows that it meets."""


class TokenizationConfig(Section):
    """How rows become tokens."""

    max_length: int = setting("tokenization.max_length")
    """The tokens that a row may have."""

    too_long: TooLong = TooLong.DROP
    """What becomes of longer rows."""

    refused: Literal["error", "drop"] = "error"
    """What becomes of a row from which the template cannot tell the trained tokens."""

    template: Template = setting("tokenization.template")
    """chat: the tokenizer's chat template; plain: prompt, newline, answer; auto: the first that
    there is; instruction: the same, with Alpaca's words for plain."""


class TrainingConfig(Section):
    """How the model is trained."""

    method: TrainingMethod = setting("training.method")
    """What is tuned: lora: an adapter; qlora: an adapter on a base of 4 or 8 bits;
    instruction_tuning: an adapter, taught in Alpaca's words where the tokenizer has no chat
    template; full_finetuning: every weight."""

    output_dir: Path | None = None
    """The folder that gets one folder a job; without it, the organisation's own."""

    epochs: int = setting("training.epochs", alias="num_epochs")
    """Passes over the training rows."""

    learning_rate: Annotated[float, within("training.learning_rate")] | Literal["auto"] = (
        setting_or_auto("training.learning_rate")
    )
    """The peak learning rate; auto is the method's own."""

    batch_size: Annotated[int, within("training.batch_size")] | Literal["auto"] = setting_or_auto(
        "training.batch_size"
    )
    """Rows an optimizer step, those of all processes together."""

    micro_batch_size: Annotated[int, within("training.micro_batch_size")] | Literal["auto"] = (
        setting_or_auto("training.micro_batch_size")
    )
    """Rows on a device at once; gradients are accumulated up to the batch size. auto is as many as
    the memory holds."""

    num_processes: int = setting("training.num_processes")
    """Processes that train together, on all machines: one a GPU."""

    num_machines: int = setting("training.num_machines")
    """Machines that these processes are on, an equal share on each."""

    strategy: Strategy = setting("training.strategy")
    """What several processes share: ddp: the rows; fsdp: the rows and the model."""

    warmup_steps: int = setting("training.warmup_steps")
    """Steps in which the learning rate rises to its peak."""

    scheduler: Scheduler = setting("training.scheduler")
    """How the learning rate falls."""

    weight_decay: float = setting("training.weight_decay")
    """AdamW's weight decay."""

    max_grad_norm: float = setting("training.max_grad_norm")
    """The norm that gradients are clipped to; 0 leaves them."""

    save_steps: int = setting("training.save_steps")
    """Steps between checkpoints."""

    eval_steps: int | None = setting("training.eval_steps")
    """Steps between validations; the end of every epoch always has one."""

    logging_steps: int = setting("training.logging_steps")
    """Steps between two reports of loss, gradient norm and speed."""

    keep_checkpoints: int = setting("training.keep_checkpoints")
    """Checkpoints that are kept; the best by validation loss stays besides."""

    early_stopping_patience: int | None = setting("training.early_stopping_patience")
    """End after so many validations without a better loss."""

    precision: Precision = setting("training.precision")
    """The numbers to compute in; auto is bf16 on a GPU that has it, else float32."""

    gradient_checkpointing: bool = setting("training.gradient_checkpointing")
    """Compute activations twice to save memory."""

    seed: int = setting("training.seed")
    """Decides the adapter's first weights, the order of rows and the dropout."""


def rows_a_step(config: TrainingConfig) -> int:
    """The batch size, `auto` resolved."""
    if config.batch_size == "auto":
        return int(default("training.auto_batch_size"))
    return config.batch_size


class LoraConfig(Section):
    """The low-rank adapter."""

    lora_rank: int = setting("lora.lora_rank", alias="r")
    """The rank of the update."""

    lora_alpha: float = setting("lora.lora_alpha")
    """The update is scaled by alpha / rank, with rslora by alpha / √rank."""

    lora_dropout: float = setting("lora.lora_dropout")
    """The probability with which an input of the adapter is dropped in training."""

    target_modules: Pattern | Annotated[list[Name], Field(min_length=1)] = setting(
        "lora.target_modules"
    )
    """The modules that get an adapter: all-linear, names, or a regular expression that matches
    whole names."""

    use_rslora: bool = setting("lora.use_rslora")
    """Scale by the root of the rank, so that a high rank still learns (arXiv 2312.03732)."""

    use_dora: bool = setting("lora.use_dora")
    """Train the weights' magnitudes apart from their directions (DoRA, arXiv 2402.09353)."""

    loraplus_lr_ratio: float | None = setting("lora.loraplus_lr_ratio")
    """How many times faster B learns than A (LoRA+, arXiv 2402.12354)."""

    initialization: Literal["default", "pissa"] = setting("lora.initialization")
    """default: the first update is zero; pissa: the adapter begins as the main directions of the
    base's weights (arXiv 2404.02948)."""


class EvaluationConfig(Section):
    """How base and tuned model are compared."""

    metrics: list[EvaluationMetric | MetricFile] | None = setting("evaluation.metrics")
    """What is measured on the generated answers, beside loss, perplexity and token accuracy: names,
    or files of modules of `evaluate`, whose code is then run; without any, what fits the task."""

    num_samples: int = setting("evaluation.num_samples")
    """Held-out rows for which answers are generated; the loss is over all of them."""

    batch_size: int = setting("evaluation.batch_size")
    """Rows at once."""

    generation_max_length: int = setting("evaluation.generation_max_length")
    """Tokens that an answer may have."""


class GateConfig(Section):
    """What a version must prove before it becomes the champion, on rows that neither has learned.

    It is compared with the champion, or with its base where there is none yet; a tie loses.
    """

    enabled: bool = True
    """Whether versions become champion or challenger by proof; without, only by hand."""

    metric: EvaluationMetric | Literal["auto"] | MetricFile = setting("gate.metric")
    """By which it must be better: one that the evaluation measures; auto is execution_accuracy
    where queries are executed, else loss."""

    direction: Literal["auto", "lower", "higher"] = "auto"
    """What is better; auto is lower for loss and perplexity, else higher."""

    min_gain: float = setting("gate.min_gain")
    """The gain that it must have: the whole 95 % interval of the gain lies above it, paired over
    the rows."""

    general_path: Name | None = None
    """A file of rows of other things, which must not be forgotten."""

    max_forgetting: float = setting("gate.max_forgetting")
    """How much the loss on these rows may rise, in nats a token."""

    regression_path: Name | None = None
    """A file of prompts with expected answers, each of which it must give."""

    check_merge: bool = setting("gate.check_merge")
    """Whether an adapter must also merge into its base and answer as before."""


class RegistryConfig(Section):
    """How the result is registered."""

    model_name: ModelName | None = None
    """The registered model's name; without it, base and dataset make one."""

    alias: Alias = setting("registry.alias")
    """The alias that is put on the new version."""

    domain: Name | None = None
    """What it is for, in a word: the hub's tree is ordered by it."""

    gate: GateConfig = Field(default_factory=GateConfig)
    """What it must prove before it becomes the champion."""
