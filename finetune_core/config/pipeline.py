"""PipelineConfig: the whole config, its files, and all of its faults at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from finetune_core.config.defaults import check_defaults
from finetune_core.config.section import Section
from finetune_core.config.sections import (
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    RegistryConfig,
    TokenizationConfig,
    TrainingConfig,
    rows_a_step,
)
from finetune_core.config.sql import SECRET, SqlConfig
from finetune_core.exceptions import (
    ConfigError,
    Fault,
    IncompatibleConfigError,
    InvalidConfigError,
    MissingConfigError,
)
from finetune_core.types import (
    GATE_ALIASES,
    OF_SQL,
    OF_TOKENS,
    DatasetFormat,
    DatasetSource,
    Strategy,
    Template,
    TrainingMethod,
)

INCOMPATIBLE = "incompatible"
# Ten times as fast where PyYAML came with its C part.
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class PipelineConfig(Section):
    """Everything that one job needs to know."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    """The base model."""

    dataset: DatasetConfig
    """The rows to learn from and the rows held out."""

    tokenization: TokenizationConfig = Field(default_factory=TokenizationConfig)
    """How rows become tokens."""

    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """How the model is trained."""

    lora: LoraConfig = Field(default_factory=LoraConfig)
    """The low-rank adapter."""

    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """How base and tuned model are compared."""

    sql: SqlConfig = Field(default_factory=SqlConfig)
    """The databases that it writes queries for."""

    registry: RegistryConfig = Field(default_factory=RegistryConfig)
    """How the result is registered."""

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_faults_together(
        cls, value: Any, handler: ValidatorFunctionWrapHandler
    ) -> PipelineConfig:
        """Adds what excludes each other to the faults of the single fields.

        Pydantic by itself checks between fields only once every field is right, so a person
        would mend the one kind of fault just to be told of the other.
        """
        check_defaults()
        errors: list[InitErrorDetails] = []
        config: PipelineConfig | None = None
        try:
            config = handler(value)
        except ValidationError as error:
            errors += [_again(details) for details in error.errors()]
        sections = _valid_sections(config if config is not None else value)
        for fault in _exclusions(sections):
            kind = PydanticCustomError(INCOMPATIBLE, "{problem}", {"problem": fault.problem})
            errors.append(
                {"type": kind, "loc": tuple(fault.path.split(".")), "input": fault.problem}
            )
        if errors or config is None:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        tokenization = config.tokenization
        if (
            config.training.method is TrainingMethod.INSTRUCTION_TUNING
            and tokenization.template is Template.AUTO
        ):
            instruction = tokenization.model_copy(update={"template": Template.INSTRUCTION})
            config.__dict__["tokenization"] = instruction  # frozen, but nobody has it yet
        return config

    @classmethod
    def parse(cls, value: Mapping[str, Any], *, source: str | None = None) -> PipelineConfig:
        """Makes a config from plain values.

        Args:
            value: Section → field → value.
            source: The file that they came from, for the error.

        Raises:
            InvalidConfigError: Some value is wrong; every fault is listed.
            MissingConfigError: Nothing is wrong but that required fields are absent.
            IncompatibleConfigError: Nothing is wrong but that fields exclude each other.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise config_error(error, source=source) from None

    @classmethod
    def from_yaml(cls, path: Path | str) -> PipelineConfig:
        """Reads a config from a YAML file; raises as `parse` does."""
        return cls._from_file(Path(path), yaml.safe_load)

    @classmethod
    def from_json(cls, path: Path | str) -> PipelineConfig:
        """Reads a config from a JSON file; raises as `parse` does."""
        return cls._from_file(Path(path), json.loads)

    def to_yaml(self, path: Path | str) -> None:
        """Writes the config as YAML."""
        values = self.model_dump(mode="json")
        Path(path).write_text(yaml.dump(values, Dumper=DUMPER, sort_keys=False))

    def to_json(self, path: Path | str) -> None:
        """Writes the config as JSON."""
        Path(path).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def _from_file(cls, path: Path, load: Callable[[str], Any]) -> PipelineConfig:
        return cls.parse(read_mapping(path, load), source=str(path))


def read_mapping(path: Path, load: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Reads a config file's plain values, before they are checked.

    Args:
        path: The file.
        load: How to read its text; without it, by the file's ending.

    Raises:
        MissingConfigError: The file is not there.
        InvalidConfigError: It is not YAML or JSON, or not a mapping of sections.
    """
    if load is None:
        load = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        value = load(path.read_text())
    except OSError as error:
        raise MissingConfigError(
            [Fault("config", f"cannot read {path}: {error.strerror}")]
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        raise InvalidConfigError(
            [Fault("config", f"cannot be parsed: {error}")], source=str(path)
        ) from None
    if not isinstance(value, dict):
        problem = f"must be a mapping of sections, found {type(value).__name__}"
        raise InvalidConfigError([Fault("config", problem)], source=str(path))
    return value


def config_error(error: ValidationError, *, source: str | None = None) -> ConfigError:
    """The error of ours that says what pydantic found."""
    details = error.errors()
    faults = _merge_branches(_fault(each) for each in details)
    kinds = {each["type"] for each in details}
    if kinds == {"missing"}:
        return MissingConfigError(faults, source=source)
    if kinds == {INCOMPATIBLE}:
        return IncompatibleConfigError(faults, source=source)
    return InvalidConfigError(faults, source=source)


def _merge_branches(faults: Iterable[Fault]) -> list[Fault]:
    """Makes one fault of the several that a union brings, one for each branch."""
    merged: dict[str, str] = {}
    for path, problem in faults:
        known = merged.get(path)
        merged[path] = f"{known.rpartition(' (got ')[0]}, or {problem}" if known else problem
    return [Fault(path, problem) for path, problem in merged.items()]


def _exclusions(sections: Mapping[str, Section]) -> list[Fault]:
    """What excludes each other, each rule over the sections that are right by themselves."""
    faults = []
    dataset, training = sections.get("dataset"), sections.get("training")
    if isinstance(dataset, DatasetConfig):
        if dataset.output_field and not dataset.input_field:
            faults.append(Fault("dataset.input_field", "is needed where output_field is given"))
        if dataset.input_field and not dataset.output_field:
            faults.append(Fault("dataset.output_field", "is needed where input_field is given"))
        if dataset.input_field and dataset.input_field == dataset.output_field:
            problem = f"is the same column as output_field ({dataset.input_field})"
            faults.append(Fault("dataset.input_field", problem))
        if dataset.input_field and dataset.format:
            faults.append(Fault("dataset.format", "is told already by input_field"))
        for name in ("validation", "evaluation"):
            file, split = getattr(dataset, f"{name}_path"), getattr(dataset, f"{name}_split")
            if file and split:
                faults.append(Fault(f"dataset.{name}_split", f"is told already by {name}_path"))
        if dataset.sanitize.language != "off" and not dataset.sanitize.languages:
            faults.append(Fault("dataset.sanitize.languages", "is needed by the rule language"))
        if dataset.source is not DatasetSource.HUB:
            if dataset.split != "train":
                faults.append(Fault("dataset.split", "is for the source hub"))
            faults += [
                Fault(f"dataset.{name}", "is for the source hub")
                for name in ("subset", "revision", "validation_split", "evaluation_split")
                if getattr(dataset, name)
            ]
    if isinstance(training, TrainingConfig):
        faults += _batch_exclusions(training)
        faults += _method_exclusions(training, sections)
    faults += _sql_exclusions(sections)
    registry, evaluation = sections.get("registry"), sections.get("evaluation")
    if isinstance(registry, RegistryConfig) and registry.gate.enabled:
        faults += _gate_exclusions(registry, evaluation)
    return faults


def _sql_exclusions(sections: Mapping[str, Section]) -> list[Fault]:
    """Metrics of SQL that there is no database for."""
    sql, evaluation = sections.get("sql"), sections.get("evaluation")
    registry = sections.get("registry")
    if not isinstance(sql, SqlConfig) or sql.executes:
        return []
    asked: dict[str, Iterable[Any]] = {}
    if isinstance(evaluation, EvaluationConfig):
        asked["evaluation.metrics"] = evaluation.metrics or ()
    if isinstance(registry, RegistryConfig):
        asked["registry.gate.metric"] = [registry.gate.metric]
    return [
        Fault(path, f"{metric.value} executes queries, and sql.databases has no url to ask")
        for path, metrics in asked.items()
        for metric in metrics
        if metric in OF_SQL
    ]


def _gate_exclusions(registry: RegistryConfig, evaluation: Section | None) -> list[Fault]:
    """What the gate could not judge by, and aliases that it alone moves."""
    faults = []
    if registry.alias in GATE_ALIASES:
        problem = f"{registry.alias} is given by the gate; to give it unproved, disable that"
        faults.append(Fault("registry.alias", problem))
    metric = registry.gate.metric
    measured = evaluation.metrics if isinstance(evaluation, EvaluationConfig) else None
    always = ("auto", *OF_TOKENS, *OF_SQL)
    if metric not in always and measured is not None and metric not in measured:
        name = str(getattr(metric, "value", metric))
        faults.append(Fault("registry.gate.metric", f"{name} is not among evaluation.metrics"))
    return faults


def _batch_exclusions(training: TrainingConfig) -> list[Fault]:
    """What does not come out even of rows, processes and machines."""
    faults = []
    batch, micro = rows_a_step(training), training.micro_batch_size
    processes, machines = training.num_processes, training.num_machines
    if processes % machines:
        problem = f"{processes} processes are not an equal share on each of {machines} machines"
        faults.append(Fault("training.num_processes", problem))
    if batch % processes:
        problem = f"{processes} does not divide batch_size {batch}"
        faults.append(Fault("training.num_processes", problem))
    elif micro != "auto" and batch // processes % micro:
        share = f"the {batch // processes} rows that each process has of" if processes > 1 else ""
        problem = f"{micro} does not divide {share} batch_size {batch}".replace("  ", " ")
        faults.append(Fault("training.micro_batch_size", problem))
    if training.strategy is Strategy.FSDP and training.method is TrainingMethod.QLORA:
        problem = "fsdp does not share weights of 4 or 8 bits; ddp trains qlora"
        faults.append(Fault("training.strategy", problem))
    return faults


def _method_exclusions(training: TrainingConfig, sections: Mapping[str, Section]) -> list[Fault]:
    """What excludes the method of training."""
    faults = []
    method = training.method
    model, dataset, lora = (sections.get(name) for name in ("model", "dataset", "lora"))
    if method is TrainingMethod.FULL_FINETUNING:
        if isinstance(model, ModelConfig) and model.torch_dtype == "float16":
            problem = "float16 is too coarse for weights that are all trained"
            faults.append(Fault("model.torch_dtype", problem))
        if isinstance(lora, LoraConfig):
            faults += [
                Fault(f"lora.{name}", "is for adapters, and full_finetuning has none")
                for name, value in LoraConfig()
                if getattr(lora, name) != value
            ]
    elif isinstance(lora, LoraConfig) and lora.initialization == "pissa":
        if method is TrainingMethod.QLORA:
            problem = "pissa changes the base's weights, which qlora has quantised"
            faults.append(Fault("lora.initialization", problem))
        if lora.lora_dropout:
            problem = "must be 0 with pissa, which drops main directions of the weights else"
            faults.append(Fault("lora.lora_dropout", problem))
    if (
        method is TrainingMethod.QLORA
        and isinstance(lora, LoraConfig)
        and isinstance(model, ModelConfig)
        and lora.use_dora
        and model.quantization_bits == 8
    ):
        problem = "does not train on a base of 8 bits; quantization_bits 4 does"
        faults.append(Fault("lora.use_dora", problem))
    if (
        method is TrainingMethod.INSTRUCTION_TUNING
        and isinstance(dataset, DatasetConfig)
        and dataset.format is DatasetFormat.TEXT
    ):
        problem = "text has no instructions, from which instruction_tuning learns"
        faults.append(Fault("dataset.format", problem))
    return faults


def _valid_sections(value: Any) -> dict[str, Section]:
    if isinstance(value, PipelineConfig):
        return {name: getattr(value, name) for name in PipelineConfig.model_fields}
    sections: dict[str, Section] = {}
    for name, field in PipelineConfig.model_fields.items():
        if not isinstance(value, Mapping) or not isinstance(field.annotation, type):
            continue
        try:
            sections[name] = field.annotation.model_validate(value.get(name, {}))
        except ValidationError:
            continue
    return sections


def _again(details: Any) -> InitErrorDetails:
    """An error of pydantic's in the form in which it can be raised once more."""
    if details["type"] == SECRET:
        hidden = PydanticCustomError(SECRET, "{problem}", {"problem": details["msg"]})
        return InitErrorDetails(type=hidden, loc=details["loc"], input="…")
    again = InitErrorDetails(type=details["type"], loc=details["loc"], input=details["input"])
    if "ctx" in details:
        again["ctx"] = details["ctx"]
    return again


def _fault(details: Any) -> Fault:
    """One fault, in words that name the value."""
    names = [str(part) for part in details["loc"]]
    path = _path(names)
    if details["type"] == "missing":
        return Fault(path, "is required")
    if details["type"] == "extra_forbidden":
        return Fault(path, f"is not a setting{_suggestion(names)}")
    if details["type"] in (INCOMPATIBLE, SECRET):
        return Fault(path, details["msg"])
    message = details["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return Fault(path, f"{message} (got {details['input']!r})")


def _path(names: list[str]) -> str:
    """A field's path, without the branch of a union that pydantic appends: `int`, `list[str]`."""
    kept: list[str] = []
    section: type[Section] | None = PipelineConfig
    for name in names:
        if section is None and not name.isdigit():
            break
        kept.append(name)
        field = section.model_fields.get(name) if section else None
        inner = field.annotation if field else None
        section = inner if isinstance(inner, type) and issubclass(inner, Section) else None
    return ".".join(kept)


def _suggestion(names: list[str]) -> str:
    section: Any = PipelineConfig
    for name in names[:-1]:
        field = section.model_fields.get(name)
        section = field.annotation if field else None
        if section is None:
            return ""
    close = difflib.get_close_matches(names[-1], section.model_fields, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
