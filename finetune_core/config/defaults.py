"""The file that holds every default and limit, and how fields are made from it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasChoices, Field

from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError, MissingConfigError

SHIPPED = Path(__file__).with_name("defaults.yaml")
KEYS = {"default", "min", "max"}


@cache
def load_defaults(replacement: Path | None) -> dict[str, dict[str, Any]]:
    """Reads the shipped defaults and lays an organisation's own over them.

    Args:
        replacement: A YAML or JSON file of the same shape, holding what differs.

    Returns:
        `section.field` → `{default, min, max}`.

    Raises:
        MissingConfigError: The file is not there.
        InvalidConfigError: The file names an unknown field, or is not of this shape.
    """
    defaults = _flatten(yaml.safe_load(SHIPPED.read_text()))
    if replacement is None:
        return defaults
    if not replacement.is_file():
        raise MissingConfigError([Fault("FINETUNE_DEFAULTS", f"there is no file {replacement}")])
    try:
        text = replacement.read_text()
        own = _flatten(json.loads(text) if replacement.suffix == ".json" else yaml.safe_load(text))
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        problem = f"is not `section: {{field: {{default, min, max}}}}` ({error})"
        raise InvalidConfigError(
            [Fault("FINETUNE_DEFAULTS", problem)], source=str(replacement)
        ) from error
    faults = [Fault(path, "is not a setting") for path in own if path not in defaults] + [
        Fault(f"{path}.{key}", f"is none of {', '.join(sorted(KEYS))}")
        for path, spec in own.items()
        for key in spec
        if key not in KEYS
    ]
    if faults:
        raise InvalidConfigError(faults, source=str(replacement))
    return {path: {**spec, **own.get(path, {})} for path, spec in defaults.items()}


def default(path: str) -> Any:
    """The default of the setting at `section.field`."""
    return load_defaults(Settings().defaults)[path]["default"]


def setting(path: str, *, alias: str | None = None) -> Any:
    """A pydantic field whose default and limits come from the defaults file.

    Args:
        path: `section.field`.
        alias: Another name under which the field is accepted.
    """
    spec = load_defaults(Settings().defaults)[path]
    name = path.rpartition(".")[2]
    return Field(
        default=spec["default"],
        validation_alias=AliasChoices(name, alias) if alias else None,
        **_limits(spec),
    )


def setting_or_auto(path: str) -> Any:
    """As `setting`, for a field that also takes "auto": its numbers get `within` as a type."""
    return Field(default=default(path))


def within(path: str) -> Any:
    """The limits of a setting, for the numeric branch of a union."""
    return Field(**_limits(load_defaults(Settings().defaults)[path]))


def _limits(spec: dict[str, Any]) -> dict[str, Any]:
    return {short: spec[name] for name, short in (("min", "ge"), ("max", "le")) if name in spec}


def _flatten(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{section}.{name}": dict(spec)
        for section, fields in sections.items()
        for name, spec in fields.items()
    }
