"""SweepConfig: which fields are tried with which values, and how the trials are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError

from finetune_core.config.pipeline import read_mapping
from finetune_core.config.section import Section
from finetune_core.exceptions import Fault, InvalidConfigError

Scalar = bool | int | float | str | None
RANGE, VALUES = "range", "values"


class Range(Section):
    """Numbers between two ends, both of which are among them."""

    low: int | float
    """The least."""

    high: int | float
    """The most."""

    log: bool = False
    """Whether each order of magnitude is as likely as another."""

    step: int | float | None = Field(None, gt=0)
    """Only the least and so much more, twice as much more, and so on."""


def _kind(value: Any) -> str:
    return RANGE if isinstance(value, (Mapping, Range)) else VALUES


Values = Annotated[
    Annotated[list[Scalar], Field(min_length=1), Tag(VALUES)] | Annotated[Range, Tag(RANGE)],
    Discriminator(_kind),
]


class SweepConfig(Section):
    """What a sweep tries."""

    space: dict[str, Values] = Field(min_length=1)
    """The fields that are tried, as `section.field`: each with a list of values, or with the ends
    of a range, as {low, high, log, step}."""

    sampler: Literal["grid", "tpe", "random"] = "tpe"
    """Who chooses: grid: every combination of the lists, in order; tpe: Optuna's, by what came of
    the trials before; random: a draw."""

    trials: int | None = Field(None, ge=1, le=1000)
    """Trials in all; without it, those of the whole grid, or else 10."""

    seed: int = Field(42, ge=0, le=4294967295)
    """Decides the draws."""

    metric: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")] | None = None
    """By which the best trial is found: one that the evaluation measures, or valid_loss. Without
    it, the loss on held-out rows: loss, but valid_loss where the evaluation has rows of its own."""

    direction: Literal["auto", "lower", "higher"] = "auto"
    """What is better; auto is lower for losses and perplexity, else higher."""

    parallel: int = Field(1, ge=1, le=64)
    """Trials at once, where a deployment runs them."""

    deployment: str | None = None
    """The deployment that runs the trials, as `flow/deployment`; without it, this process runs them
    one after the other."""

    prune: bool = True
    """Whether a trial is stopped whose validation loss is worse than the median of the others' at
    the same part of an epoch."""

    prune_after_trials: int = Field(4, ge=1)
    """How many trials must have been completed before one is stopped."""

    prune_after_epochs: float = Field(0.0, ge=0)
    """How long a trial trains before it is stopped."""

    @classmethod
    def parse(cls, value: Mapping[str, Any], *, source: str | None = None) -> SweepConfig:
        """Makes one from plain values.

        Raises:
            InvalidConfigError: Some value is wrong; every fault is listed.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            faults = [
                Fault(_path(each["loc"]), f"{each['msg']} (got {each['input']!r})")
                for each in error.errors()
            ]
            raise InvalidConfigError(faults, source=source) from None

    @classmethod
    def from_file(cls, path: Path) -> SweepConfig:
        """Reads one from a YAML or JSON file; raises as `parse` does."""
        return cls.parse(read_mapping(path), source=str(path))


def _path(parts: tuple[int | str, ...]) -> str:
    """A field's path, without the kind of values that pydantic has tried."""
    return ".".join(str(part) for part in parts if part not in (RANGE, VALUES))
