"""/files: upload, list, look at, download and delete files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO, Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic import Field as PydanticField
from starlette.concurrency import run_in_threadpool

from finetune_service.api.multipart import Form, arriving, read_form
from finetune_service.api.pagination import Page, page
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.parameters import AFTER, FileId, content
from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.exceptions import InvalidValueError
from finetune_service.files import FileRecord
from finetune_service.files.records import FileStatus, Purpose, id_pattern

BLOCK = 1 << 20

UploadPurpose = Literal["fine-tune", "user_data"]
Lifetime = Annotated[int, PydanticField(ge=3600, le=2_592_000)]

router = APIRouter(prefix="/files", tags=["files"])


class File(Answer):
    """A file, as the client knows it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: FileStatus
    status_details: str | None
    sha256: str

    @classmethod
    def of(cls, record: FileRecord) -> File:
        """What a record says."""
        return cls(**record.model_dump())


class DeletedFile(Answer):
    """What is said of a file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ExpiresAfter(BaseModel):
    """When something vanishes: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Lifetime


class _CreateFile(BaseModel):
    """The fields of the form, beside the file."""

    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


def form_body(name: str, required: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """What the OpenAPI page says of a form that is read as it arrives.

    Args:
        name: The field that is the file.
        required: The other fields that there must be.
        more: More of the form's schema.
    """
    properties = {name: {"type": "string", "format": "binary"}, **more.pop("properties", {})}
    schema = {"type": "object", "properties": properties, "required": [name, *required], **more}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


@router.post(
    "",
    openapi_extra=form_body(
        "file",
        required=("purpose",),
        properties={
            "purpose": TypeAdapter(UploadPurpose).json_schema(),
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": TypeAdapter(Lifetime).json_schema(),
        },
        dependentRequired={
            "expires_after[anchor]": ["expires_after[seconds]"],
            "expires_after[seconds]": ["expires_after[anchor]"],
        },
    ),
)
async def create_file(
    request: Request, organization: CurrentOrganization, services: CurrentServices
) -> File:
    """Upload a file. What is to be learned from is then checked, which its status tells."""
    files = services.files
    async with arriving(partial(files.incoming, organization)) as incoming:
        limit = services.settings.max_file_bytes
        form = await read_form(request, "file", incoming.write, limit)
        wanted = _wanted(form)
        record = await run_in_threadpool(
            files.add,
            organization,
            incoming,
            filename=form.filename,
            purpose=wanted.purpose,
            lifetime=wanted.expires_after.seconds if wanted.expires_after else None,
        )
    if record.status == "uploaded":
        services.validations.add(organization, record.id)
    return File.of(record)


@router.get("")
def list_files(
    organization: CurrentOrganization,
    services: CurrentServices,
    purpose: Purpose | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(pattern=id_pattern("file"), description=AFTER)] = None,
) -> Page[File]:
    """List files, the newest first unless asked otherwise."""
    records = services.files.list(
        organization, purpose=purpose, descending=order == "desc", after=after
    )
    return page(map(File.of, records), limit)


@router.get("/{file_id}")
def get_file(file_id: FileId, organization: CurrentOrganization, services: CurrentServices) -> File:
    """Look at a file."""
    return File.of(services.files.get(organization, file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses=content("application/octet-stream"),
)
def get_file_content(
    file_id: FileId, organization: CurrentOrganization, services: CurrentServices
) -> StreamingResponse:
    """Download a file."""
    record = services.files.get(organization, file_id)
    file = services.files.open(organization, record)
    name = quote(record.filename, safe="")
    return StreamingResponse(
        _blocks(file),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(record.bytes),
            "Content-Disposition": f"attachment; filename*=utf-8''{name}",
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.delete("/{file_id}")
def delete_file(
    file_id: FileId, organization: CurrentOrganization, services: CurrentServices
) -> DeletedFile:
    """Delete a file, unless a queued or running job needs it."""
    services.files.delete(organization, file_id)
    return DeletedFile(id=file_id)


def _wanted(form: Form) -> _CreateFile:
    values: dict[str, Any] = {}
    for name, value in form.fields.items():
        outer, _, inner = name.partition("[")
        if inner:
            values.setdefault(outer, {})[inner.removesuffix("]")] = value
        else:
            values[outer] = value
    try:
        return _CreateFile.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise InvalidValueError(f"{where}: {fault['msg']}", param=where) from None


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK):
            yield block
