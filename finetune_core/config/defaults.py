"""The file that holds every default and limit, and how fields are made from it."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasChoices, Field

from finetune_core.exceptions import ConfigError, Fault, InvalidConfigError, MissingConfigError

SHIPPED = Path(__file__).with_name("defaults.yaml")
VARIABLE = "FINETUNE_DEFAULTS"
KEYS = {"default", "min", "max"}


Defaults = dict[str, dict[str, Any]]  # `section.field` → {default, min, max}


def load_defaults(replacement: Path | None) -> Defaults:
    """Reads the shipped defaults and lays an organisation's own over them.

    Args:
        replacement: A YAML or JSON file of the same shape, holding what differs.

    Raises:
        MissingConfigError: The file is not there.
        InvalidConfigError: The file names an unknown setting, or has values of the wrong kind.
    """
    shipped, _ = _flatten(yaml.safe_load(SHIPPED.read_text()))
    if replacement is None:
        return shipped
    if not replacement.is_file():
        raise MissingConfigError([Fault(VARIABLE, f"there is no file {replacement}")])
    text = replacement.read_text()
    try:
        value = json.loads(text) if replacement.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        fault = Fault(VARIABLE, f"cannot be parsed: {error}")
        raise InvalidConfigError([fault], source=str(replacement)) from None
    own, faults = _flatten(value)
    merged = {path: {**spec, **own.get(path, {})} for path, spec in shipped.items()}
    for path, spec in own.items():
        if path not in shipped:
            faults.append(Fault(path, "is not a setting"))
        else:
            faults += _faults(path, spec, merged[path], shipped[path])
    if faults:
        raise InvalidConfigError(faults, source=str(replacement))
    return merged


@cache
def _in_force(replacement: str | None) -> tuple[Defaults, ConfigError | None]:
    try:
        return load_defaults(Path(replacement) if replacement else None), None
    except ConfigError as error:
        return load_defaults(None), error


def _defaults() -> Defaults:
    # Asked for each field of each config: to read all `Settings` would take most of its time.
    return _in_force(os.environ.get(VARIABLE))[0]


def check_defaults() -> None:
    """Refuses to go on with a replacement file that cannot be used.

    The fields are made when this package is imported, where an error would reach nobody who
    could show it; so it waits until the first config is made.

    Raises:
        ConfigError: As `load_defaults` found it.
    """
    _, error = _in_force(os.environ.get(VARIABLE))
    if error is not None:
        raise error


def default(path: str) -> Any:
    """The default of the setting at `section.field`."""
    return _defaults()[path]["default"]


def setting(path: str, *, alias: str | None = None) -> Any:
    """A pydantic field whose default and limits come from the defaults file.

    Args:
        path: `section.field`.
        alias: Another name under which the field is accepted.
    """
    spec = _defaults()[path]
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
    return Field(**_limits(_defaults()[path]))


def _limits(spec: dict[str, Any]) -> dict[str, Any]:
    return {short: spec[name] for name, short in (("min", "ge"), ("max", "le")) if name in spec}


def _flatten(sections: Any) -> tuple[Defaults, list[Fault]]:
    """`section.field` → spec, and what is not of that shape."""
    if not isinstance(sections, dict):
        return {}, [Fault(VARIABLE, "must hold `section: {field: {default, min, max}}`")]
    found: Defaults = {}
    faults = []
    for section, fields in sections.items():
        if not isinstance(fields, dict):
            faults.append(Fault(str(section), "must hold `field: {default, min, max}`"))
            continue
        for name, spec in fields.items():
            if isinstance(spec, dict):
                found[f"{section}.{name}"] = dict(spec)
            else:
                faults.append(Fault(f"{section}.{name}", "must be `{default, min, max}`"))
    return found, faults


def _faults(
    path: str, own: dict[str, Any], merged: dict[str, Any], shipped: dict[str, Any]
) -> list[Fault]:
    """What is wrong with one setting of an organisation's; its numbers are made numbers."""
    faults = [
        Fault(f"{path}.{key}", f"is none of {', '.join(sorted(KEYS))}") for key in own.keys() - KEYS
    ]
    for key in ("min", "max"):
        if key in own and key not in shipped:
            faults.append(Fault(f"{path}.{key}", "this setting has no limits"))
        elif key in own:
            try:
                merged[key] = type(shipped[key])(own[key])
            except (TypeError, ValueError):
                faults.append(Fault(f"{path}.{key}", f"must be a number (got {own[key]!r})"))
    if not faults and isinstance(merged["default"], (int, float)) and "min" in merged:
        low, value, high = merged["min"], merged["default"], merged["max"]
        if not low <= value <= high:
            faults.append(Fault(path, f"the default {value} is not between {low} and {high}"))
    return faults
