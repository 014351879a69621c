"""The space of a sweep: fields of a config, their values checked and as the config has them."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from pydantic import BaseModel, ValidationError

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.exceptions import ConfigError, Fault, InvalidConfigError
from finetune_core.jobs import model_name
from finetune_core.sweep.config import Range, Scalar, SweepConfig
from finetune_core.types import LESS_IS_BETTER, OF_SQL, EvaluationMetric

TRIAL = "trial"  # the alias that a trial's version gets
VALID_LOSS = "valid_loss"
ALWAYS = {VALID_LOSS, "loss", "perplexity", "token_accuracy"}  # measured whatever the config says
# What is measured, and where it goes to, is one for all trials: else they do not compare.
FIXED = ("evaluation.", "registry.", "training.output_dir")
DEFAULT_TRIALS = 10

Assignment = dict[str, Scalar]  # `section.field` → value


class Choices(NamedTuple):
    """Values of which one is taken."""

    values: tuple[Scalar, ...]


class Span(NamedTuple):
    """Numbers between two ends."""

    low: float
    high: float
    log: bool
    step: float | None
    whole: bool


Space = dict[str, Choices | Span]


class Goal(NamedTuple):
    """What makes a trial the best one."""

    metric: str
    lower: bool

    def best(self, found: Mapping[int, float]) -> int | None:
        """The number of the best trial, of equal ones the first; none of none."""
        sign = 1 if self.lower else -1
        return min(found, key=lambda number: (sign * found[number], number), default=None)


def goal(sweep: SweepConfig, config: PipelineConfig) -> Goal:
    """By which metric trials are compared, and what is better.

    Raises:
        InvalidConfigError: The evaluation does not measure that.
    """
    dataset = config.dataset
    apart = dataset.evaluation_path or dataset.evaluation_split
    metric = sweep.metric or (VALID_LOSS if apart else "loss")
    asked = config.evaluation.metrics
    names = set(EvaluationMetric if asked is None else asked) - set(OF_SQL)
    if config.sql.executes:  # then they are always measured
        names |= set(OF_SQL)
    known = ALWAYS | {str(getattr(each, "value", each)) for each in names}
    if metric not in known:
        problem = f"is not measured: only {', '.join(sorted(known))} (got {metric!r})"
        raise InvalidConfigError([Fault("metric", problem)])
    if sweep.direction == "auto":
        return Goal(metric, metric in {*LESS_IS_BETTER, VALID_LOSS})
    return Goal(metric, sweep.direction == "lower")


def resolve(sweep: SweepConfig, config: PipelineConfig) -> Space:
    """The fields that are tried, each value as a config has it: 1e-4 and "0.0001" are one.

    Args:
        sweep: What is tried.
        config: What holds for all trials.

    Raises:
        InvalidConfigError: Fields or values are wrong, or a combination in a grid is; every fault
            is listed.
    """
    faults: list[Fault] = []
    space: Space = {}
    base = config.model_dump(mode="json")
    for path, wanted in sweep.space.items():
        where = f"space.{path}"
        if problem := _unusable(base, path):
            faults.append(Fault(where, problem))
            continue
        values = (wanted.low, wanted.high) if isinstance(wanted, Range) else wanted
        found, problems = [], []
        for value in values:
            try:
                found.append(_normal(base, path, value))
            except ValueError as error:
                problems.append(Fault(where, f"{error} (got {value!r})"))
        faults += problems
        if problems:
            continue
        if not isinstance(wanted, Range):
            space[path] = Choices(tuple(dict.fromkeys(found)))
        elif sweep.sampler == "grid":
            faults.append(Fault(where, "a grid has lists of values, and no range"))
        elif problem := _no_span(wanted, found):
            faults.append(Fault(where, problem))
        else:
            whole = all(isinstance(each, int) for each in found)
            low, high = (float(each or 0) for each in found)
            space[path] = Span(low, high, wanted.log, wanted.step, whole)
    if not faults and sweep.sampler == "grid":
        faults = _grid_faults(sweep, config, space)
    if faults:
        raise InvalidConfigError(faults, source="the sweep")
    return space


def grid(space: Space) -> Iterator[Assignment]:
    """Every combination of the values, the last field the fastest."""
    lists = [each.values for each in space.values() if isinstance(each, Choices)]
    for values in itertools.product(*lists):
        yield dict(zip(space, values, strict=True))


def count(sweep: SweepConfig, space: Space) -> int:
    """How many trials there are to be."""
    if sweep.sampler == "grid":
        return sum(1 for _ in grid(space))
    return sweep.trials or DEFAULT_TRIALS


def trial_config(config: PipelineConfig, values: Assignment) -> PipelineConfig:
    """The config of one trial: its version bears the sweep's name, and faces no gate.

    Raises:
        ConfigError: The values exclude each other.
    """
    fields = config.model_dump(mode="json")
    for path, value in values.items():
        _put(fields, path, value)
    fields["registry"] |= {"model_name": model_name(config), "alias": TRIAL}
    fields["registry"]["gate"] |= {"enabled": False}
    return PipelineConfig.parse(fields)


def _unusable(base: dict[str, Any], path: str) -> str | None:
    """Why a field cannot be tried."""
    known = list(_paths(base))
    if path not in known:
        close = difflib.get_close_matches(path, known, n=1)
        return f"is not a setting{f' (did you mean {close[0]}?)' if close else ''}"
    if path.startswith(FIXED):
        return "is the same for all trials"
    return None


def _paths(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _normal(base: dict[str, Any], path: str, value: Scalar) -> Scalar:
    """A value as the config has it.

    Raises:
        ValueError: The field does not take it; what it may not be beside is for later.
    """
    section, _, rest = path.partition(".")
    kind = cast(type[BaseModel], PipelineConfig.model_fields[section].annotation)
    fields = copy.deepcopy(base[section])
    _put(fields, rest, value)
    try:
        found: Any = kind.model_validate(fields).model_dump(mode="json")
    except ValidationError as error:
        messages = dict.fromkeys(each["msg"].removeprefix("Input ") for each in error.errors())
        raise ValueError(", or ".join(messages)) from None
    for name in rest.split("."):
        found = found[name]
    normal: Scalar = found
    return normal


def _put(fields: dict[str, Any], path: str, value: Scalar) -> None:
    *sections, name = path.split(".")
    for each in sections:
        fields = fields[each]
    fields[name] = value


def _no_span(wanted: Range, ends: list[Scalar]) -> str | None:
    """Why there is nothing between two ends."""
    low, high = ends
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, (int, float)):
            return "takes no numbers, so it has no range: give a list"
    if not wanted.low < wanted.high:
        return f"low must be less than high (got {wanted.low:g} and {wanted.high:g})"
    if wanted.log and wanted.low <= 0:
        return f"low must be above 0 for log (got {wanted.low:g})"
    if wanted.log and wanted.step:
        return "log and step exclude each other"
    return None


def _grid_faults(sweep: SweepConfig, config: PipelineConfig, space: Space) -> list[Fault]:
    size = count(sweep, space)
    if sweep.trials not in (None, size):
        problem = f"the grid has {size} combinations: leave trials out, or take another sampler"
        return [Fault("trials", f"{problem} (got {sweep.trials})")]
    faults = []
    for values in grid(space):
        try:
            trial_config(config, values)
        except ConfigError as error:
            given = ", ".join(f"{path}={value}" for path, value in values.items())
            faults += [Fault(each.path, f"{each.problem} with {given}") for each in error.faults]
    return faults
