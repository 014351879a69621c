"""Answer: what a route answers. Of each field the page says that it is always there."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """The base of all answers."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)
