"""NewJob: what a request to create a job may say, and the config that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from finetune_core.config.defaults import default
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import rows_a_step
from finetune_core.config.sql import SqlConfig
from finetune_core.exceptions import ConfigError
from finetune_core.types import TrainingMethod
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.priority import Priority
from finetune_service.jobs.record import slug
from finetune_service.jobs.sections import sections

SUPERVISED = "supervised"
UNSUPPORTED = ("dpo", "reinforcement")
METHODS = (SUPERVISED, *(method.value for method in TrainingMethod))

LONGEST = 300  # the characters that are said of a fault: its value may be of any length
PAIRS, KEY_LENGTH, VALUE_LENGTH = 16, 64, 512
METADATA = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": PAIRS,
            "propertyNames": {"maxLength": KEY_LENGTH},
            "additionalProperties": {"type": "string", "maxLength": VALUE_LENGTH},
        },
        {"type": "null"},
    ]
}

# Where a request's own fields go in the config.
SETTINGS = {
    "n_epochs": ("training", "epochs"),
    "batch_size": ("training", "batch_size"),
    "learning_rate_multiplier": ("training", "learning_rate"),
    "learning_rate": ("training", "learning_rate"),
    "lora_rank": ("lora", "lora_rank"),
    "lora_alpha": ("lora", "lora_alpha"),
    "lora_dropout": ("lora", "lora_dropout"),
    "seed": ("training", "seed"),
}
ALIASES = {"epochs": "num_epochs", "lora_rank": "r"}

# What names a path, or is told by another field of the request.
NOT_IN_CONFIG = {
    "dataset": (
        "path", "source", "subset", "split", "revision", "validation_path", "validation_split",
        "evaluation_path", "evaluation_split",
    ),
    "model": ("name",),
    "training": ("output_dir",),
    "sql": tuple(SqlConfig.model_fields),
}  # fmt: skip


GATE_FILES = ("general_path", "regression_path")  # which a request names by a file's id
SECTIONS = sections(NOT_IN_CONFIG)
TRAINING, LORA = (SECTIONS["properties"][name]["properties"] for name in ("training", "lora"))


# `auto` is None here: a union would show in the names of faulty fields.
AUTO = BeforeValidator(lambda value: None if value == "auto" else value)


def _or_auto(**number: Any) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": "auto"}, number]})


def _or_null(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"type": "null"}]})


Epochs = Annotated[
    int | None,
    Field(strict=True, ge=1, le=50),
    AUTO,
    _or_auto(**TRAINING["epochs"]),  # of which the operator may allow fewer
]
BatchSize = Annotated[
    int | None,
    Field(strict=True, ge=1, le=256),
    AUTO,
    _or_auto(type="integer", minimum=1, maximum=256),
]
Multiplier = Annotated[
    float | None,
    Field(strict=True, gt=0, allow_inf_nan=False),
    AUTO,
    _or_auto(type="number", exclusiveMinimum=0),
]
LearningRate = Annotated[
    float | None,
    Field(strict=True, gt=0, allow_inf_nan=False),
    AUTO,
    WithJsonSchema(TRAINING["learning_rate"]),
]
Rank = Annotated[int | None, Field(strict=True), _or_null(LORA["lora_rank"])]
Alpha = Annotated[float | None, Field(strict=True), _or_null(LORA["lora_alpha"])]
Dropout = Annotated[float | None, Field(strict=True), _or_null(LORA["lora_dropout"])]


class _Asked(BaseModel):
    """A part of a request, in which nothing unknown is passed over."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Hyperparameters(_Asked):
    """OpenAI's, and the few of ours that go beside them; `config` takes all others."""

    n_epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate_multiplier: Multiplier = None
    learning_rate: LearningRate = None
    lora_rank: Rank = None
    lora_alpha: Alpha = None
    lora_dropout: Dropout = None


class MethodHyperparameters(_Asked):
    """What stands under a method's name."""

    hyperparameters: Hyperparameters = Hyperparameters()


def _or_its_type(schema: dict[str, Any]) -> None:
    """Says that the type alone will do, and nothing of what is refused."""
    for name in UNSUPPORTED:
        del schema["properties"][name]
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "enum": [*METHODS]}, whole]


class Method(_Asked):
    """How to train: `supervised` is the installation's default method; the others are ours."""

    model_config = ConfigDict(json_schema_extra=_or_its_type)

    type: str = Field(json_schema_extra={"enum": [*METHODS]})
    supervised: MethodHyperparameters | None = None
    lora: MethodHyperparameters | None = None
    qlora: MethodHyperparameters | None = None
    instruction_tuning: MethodHyperparameters | None = None
    full_finetuning: MethodHyperparameters | None = None
    dpo: Any = None
    reinforcement: Any = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    @field_validator("type")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value in UNSUPPORTED:
            raise ValueError(f"{value} is not supported here; {', '.join(METHODS)} are")
        if value not in METHODS:
            raise ValueError(f"is none of {', '.join(METHODS)} (got {value!r})")
        return value

    @field_validator(*UNSUPPORTED)
    @classmethod
    def _not_beside(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("is not supported here")
        return value


class NewJob(_Asked):
    """The body of POST /fine_tuning/jobs."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: Annotated[str, Field(min_length=1, max_length=256)]
    validation_file: Annotated[str | None, Field(min_length=1, max_length=256)] = None
    method: Annotated[
        Method | None,
        Field(json_schema_extra={"examples": ["lora", {"type": SUPERVISED}]}),
    ] = None
    hyperparameters: Hyperparameters | None = None
    lora_rank: Rank = None
    lora_alpha: Alpha = None
    lora_dropout: Dropout = None
    suffix: Annotated[
        str | None,
        Field(min_length=1, max_length=64, json_schema_extra={"pattern": "[A-Za-z0-9]"}),
    ] = None
    seed: Annotated[int | None, Field(strict=True, ge=0, le=2**32 - 1)] = None
    priority: Annotated[
        Priority, Field(description="Of the jobs that wait, the more urgent begin first.")
    ] = Priority.NORMAL
    metadata: Annotated[dict[str, str] | None, WithJsonSchema(METADATA)] = None
    integrations: Annotated[list[Any] | None, Field(json_schema_extra={"maxItems": 0})] = None
    config: Annotated[
        dict[str, dict[str, Any]] | None,
        Field(description="Sections of PipelineConfig, but for what names paths or code."),
        WithJsonSchema({"anyOf": [SECTIONS, {"type": "null"}]}),
    ] = None

    @field_validator("suffix")
    @classmethod
    def _names_something(cls, value: str | None) -> str | None:
        if value is not None and not slug(value):
            raise ValueError("must have a letter or a digit")
        return value

    @field_validator("metadata")
    @classmethod
    def _within_limits(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        pairs = value or {}
        if len(pairs) > PAIRS:
            raise ValueError(f"may have {PAIRS} pairs (got {len(pairs)})")
        for key, each in pairs.items():
            if len(key) > KEY_LENGTH:
                raise ValueError(f"a key may have {KEY_LENGTH} characters: {key[:KEY_LENGTH]!r}…")
            if len(each) > VALUE_LENGTH:
                raise ValueError(f"the value of {key!r} may have {VALUE_LENGTH} characters")
        return value

    @field_validator("integrations")
    @classmethod
    def _none_known(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("none is supported: jobs are tracked in MLflow")
        return value

    @property
    def method_type(self) -> str:
        """The method as it was named."""
        return self.method.type if self.method else SUPERVISED

    def settings(self) -> Iterator[tuple[str, str, Any]]:
        """What was given, each with the request's field that it was given by."""
        forms: list[tuple[str, BaseModel | None]] = [("", self)]
        forms.append(("hyperparameters.", self.hyperparameters))
        for name in METHODS:
            inner: MethodHyperparameters | None = getattr(self.method, name, None)
            where = f"method.{name}.hyperparameters."
            if inner and name != self.method_type:
                problem = f"stands beside the type {self.method_type}"
                raise InvalidValueError(f"method.{name}: {problem}", param=f"method.{name}")
            forms.append((where, inner.hyperparameters if inner else None))
        for prefix, form in forms:
            for name in SETTINGS:
                value = getattr(form, name, None)
                if value is not None:
                    yield prefix + name, name, value


def gate_files(wanted: NewJob) -> dict[str, str]:
    """The uploaded files by which a job's gate measures: the gate's field → the file's id.

    Raises:
        InvalidValueError: A field names something else.
    """
    gate = (wanted.config or {}).get("registry", {}).get("gate")
    asked = gate if isinstance(gate, dict) else {}
    found = {name: asked[name] for name in GATE_FILES if asked.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str) or not value.startswith("file-"):
            field = f"config.registry.gate.{name}"
            raise InvalidValueError(f"{field}: must be the id of an uploaded file", param=field)
    return found


def build_config(
    wanted: NewJob,
    *,
    base: str,
    training: str,
    validation: str | None,
    gate: Mapping[str, str] | None = None,
) -> PipelineConfig:
    """The config that a request makes.

    Args:
        wanted: The request.
        base: What the config calls the base model.
        training: The path of the training file.
        validation: The path of the validation file.
        gate: The paths of the gate's files, by its fields.

    Raises:
        InvalidValueError: Something is wrong, said of the field of the request that it came by.
    """
    values = _given_sections(wanted)
    fields: dict[tuple[str, str], str] = {}  # where in the config → by which field

    def put(section: str, name: str, field: str, value: Any) -> None:
        known = values.setdefault(section, {})
        for each in (name, ALIASES.get(name, name)):
            if each in known:
                by = fields.get((section, name), f"config.{section}.{each}")
                raise InvalidValueError(f"{field}: is told already by {by}", param=field)
        known[name] = value
        fields[section, name] = field

    method = wanted.method_type
    if method != SUPERVISED:
        put("training", "method", "method", method)
    for field, name, value in wanted.settings():
        if name == "learning_rate_multiplier":
            value = value * default_rate(str(values.get("training", {}).get("method", "")))
        put(*SETTINGS[name], field, value)
    values.setdefault("model", {})["name"] = base
    values.setdefault("dataset", {}).update(path=training, validation_path=validation)
    if gate:
        values["registry"]["gate"] = {**values["registry"]["gate"], **gate}
    name = slug(wanted.suffix or "") or slug(wanted.model.rpartition("/")[2])
    values.setdefault("registry", {}).setdefault("model_name", name)
    try:
        return PipelineConfig.parse(values)
    except ConfigError as error:
        faults = [(_field(path, fields), problem[:LONGEST]) for path, problem in error.faults]
        message = "; ".join(f"{field}: {problem}" for field, problem in faults)
        raise InvalidValueError(message[: 10 * LONGEST], param=faults[0][0]) from None


def resolved(wanted: NewJob, config: PipelineConfig) -> dict[str, Any]:
    """The hyperparameters in the contract's terms, as they are in force."""
    training, lora = config.training, config.lora
    usual = default_rate(training.method.value)
    rate = usual if training.learning_rate == "auto" else training.learning_rate
    asked = [value for _, name, value in wanted.settings() if name == "learning_rate_multiplier"]
    found: dict[str, Any] = {
        "n_epochs": training.epochs,
        "batch_size": rows_a_step(training),
        "learning_rate_multiplier": asked[0] if asked else round(rate / usual, 9),
    }
    if training.method is not TrainingMethod.FULL_FINETUNING:
        found |= {"lora_rank": lora.lora_rank, "lora_alpha": lora.lora_alpha}
    return found


def default_rate(method: str) -> float:
    """A method's own learning rate, which a multiplier multiplies."""
    method = method or str(default("training.method"))
    kind = "full" if method == TrainingMethod.FULL_FINETUNING.value else "adapter"
    return float(default(f"training.{kind}_learning_rate"))


def _given_sections(wanted: NewJob) -> dict[str, dict[str, Any]]:
    """The sections that `config` gives, without those fields that lead out of it."""
    sections = {name: dict(fields) for name, fields in (wanted.config or {}).items()}
    for section, names in NOT_IN_CONFIG.items():
        for name in names:
            if name in sections.get(section, {}):
                field = f"config.{section}.{name}"
                raise InvalidValueError(f"{field}: cannot be set by a request", param=field)
    metrics = sections.get("evaluation", {}).get("metrics")
    gate = sections.get("registry", {}).get("gate")
    named = {
        "config.evaluation.metrics": metrics if isinstance(metrics, list) else [],
        "config.registry.gate.metric": [gate.get("metric")] if isinstance(gate, dict) else [],
    }
    for field, found in named.items():
        if any(isinstance(each, str) and each.endswith(".py") for each in found):
            raise InvalidValueError(f"{field}: a request cannot name code", param=field)
    return sections


def _field(path: str, fields: dict[tuple[str, str], str]) -> str:
    """The request's field by which a setting was given."""
    section, _, name = path.partition(".")
    return fields.get((section, name), f"config.{path}")
