"""What the API's page says of the config's sections: their schema, whole in itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from finetune_core.config.pipeline import PipelineConfig


def sections(left_out: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The JSON schema of the config, each field optional, and without those that are left out.

    Args:
        left_out: Fields by section.
    """
    whole = PipelineConfig.model_json_schema()
    schema: dict[str, Any] = _inlined(whole, whole["$defs"])
    for name, section in list(schema["properties"].items()):
        for field in left_out.get(name, ()):
            section["properties"].pop(field)
        section.pop("required", None)
        if not section["properties"]:
            del schema["properties"][name]
    return {
        "type": "object",
        "properties": schema["properties"],
        "additionalProperties": False,
    }


def _inlined(value: Any, known: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in its place."""
    if isinstance(value, list):
        return [_inlined(each, known) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: _inlined(each, known) for name, each in value.items() if name != "$ref"}
    if "$ref" in value:
        found = {**_inlined(known[value["$ref"].rpartition("/")[2]], known), **found}
    found.pop("position", None)  # a property of that name would be lost; the config has none
    return found
