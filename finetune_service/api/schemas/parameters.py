"""What the page says of parameters and answers beyond their types."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query

from finetune_service.api.errors import ID_HEADER
from finetune_service.api.schemas.fine_tuning import CHECKPOINT_ID, EVENT_ID
from finetune_service.files.records import id_pattern
from finetune_service.jobs.creation import KEY, KEY_LENGTH
from finetune_service.jobs.store import KIND

AFTER = "The last_id of the page before."

# Said, not checked: an id that could be none is answered as one that nobody has.
FileId = Annotated[str, Path(json_schema_extra={"pattern": id_pattern("file")})]
UploadId = Annotated[str, Path(json_schema_extra={"pattern": id_pattern("upload")})]
JobId = Annotated[str, Path(description="The job's id, or the name of the newest.")]


def _after(pattern: str) -> Any:
    return Query(description=AFTER, json_schema_extra={"pattern": pattern})


AfterJob = Annotated[str | None, _after(id_pattern(KIND))]
AfterEvent = Annotated[str | None, _after(f"^{EVENT_ID.pattern}$")]
AfterCheckpoint = Annotated[str | None, _after(f"^{CHECKPOINT_ID.pattern}$")]
AfterAny = Annotated[str | None, Query(description=AFTER)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=KEY,
        description="The same key gives the same job.",
        json_schema_extra={"minLength": 1, "maxLength": KEY_LENGTH},
    ),
]

METADATA = {
    "name": "metadata",
    "in": "query",
    "description": "metadata[key]=value leaves the jobs that have the pair; null, those with none.",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}


def content(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What the page says of an answer that is no JSON; its errors are."""
    schema = {"type": "string", **({} if media_type == "text/plain" else {"format": "binary"})}
    return {200: {"content": {media_type: {"schema": schema}}, "headers": ID_HEADER}}
