"""What all sections of a config are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Section(BaseModel):
    """A part of the config: frozen, and without room for a mistyped name."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Adds what a person needs who fills a form made of the schema.

        That is the order of the fields, which PostgreSQL does not keep, and their ranges in words,
        which forms do not show.
        """
        schema = handler(core_schema)
        fields = handler.resolve_ref_schema(schema).get("properties", {})
        for position, field in enumerate(fields.values()):
            field["position"] = position
            if "description" in field and (bounds := _bounds(field)):
                field["description"] += f" ({bounds})"
        return schema


def _bounds(field: dict[str, Any]) -> str:
    """The range of a number, or of the branch that is one."""
    for branch in (field, *field.get("anyOf", [])):
        least, most = branch.get("minimum"), branch.get("maximum")
        if least is not None and most is not None:
            return f"{_shown(least)} to {_shown(most)}"
        if least is not None:
            return f"{_shown(least)} or more"
    return ""


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"
