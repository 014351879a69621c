"""/uploads: files that arrive in parts."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from pydantic import Field as PydanticField
from starlette.concurrency import run_in_threadpool

from finetune_service.api.multipart import arriving, read_form
from finetune_service.api.routes.files import ExpiresAfter, File, UploadPurpose, form_body
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.parameters import UploadId
from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.files import UploadRecord
from finetune_service.files.records import Purpose, UploadStatus
from finetune_service.files.uploads import PART_BYTES

router = APIRouter(prefix="/uploads", tags=["uploads"])


class CreateUpload(BaseModel):
    """What the file is to be."""

    filename: Annotated[str, PydanticField(min_length=1, max_length=1024)]
    purpose: UploadPurpose
    bytes: Annotated[int, PydanticField(ge=1)]
    mime_type: str
    expires_after: ExpiresAfter | None = None


class CompleteUpload(BaseModel):
    """The parts, in the order in which they make the file."""

    part_ids: Annotated[
        list[str], PydanticField(min_length=1, json_schema_extra={"uniqueItems": True})
    ]
    md5: Annotated[str, PydanticField(pattern="^[0-9a-fA-F]{32}$")] | None = None


class Upload(Answer):
    """An upload, as the client knows it."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: UploadStatus
    file: File | None

    @classmethod
    def of(cls, record: UploadRecord) -> Upload:
        """What a record says."""
        return cls(**record.model_dump(exclude={"file"}), file=record.file and File.of(record.file))


class UploadPart(Answer):
    """A part of an upload, as the client knows it."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


@router.post("")
def create_upload(
    wanted: CreateUpload, organization: CurrentOrganization, services: CurrentServices
) -> Upload:
    """Begin an upload."""
    upload = services.uploads.create(
        organization,
        filename=wanted.filename,
        purpose=wanted.purpose,
        size=wanted.bytes,
        lifetime=wanted.expires_after.seconds if wanted.expires_after else None,
    )
    return Upload.of(upload)


@router.post("/{upload_id}/parts", openapi_extra=form_body("data"))
async def create_part(
    upload_id: UploadId,
    request: Request,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> UploadPart:
    """Upload a part, of at most 64 MB."""
    uploads = services.uploads
    await run_in_threadpool(uploads.pending, organization, upload_id)
    async with arriving(partial(uploads.incoming, organization)) as incoming:
        await read_form(request, "data", incoming.write, PART_BYTES)
        part = await run_in_threadpool(uploads.add_part, organization, upload_id, incoming)
    return UploadPart(**part.model_dump())


@router.post("/{upload_id}/complete")
def complete_upload(
    upload_id: UploadId,
    wanted: CompleteUpload,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> Upload:
    """Make a file of the parts."""
    upload = services.uploads.complete(organization, upload_id, wanted.part_ids, wanted.md5)
    if upload.file and upload.file.status == "uploaded":
        services.validations.add(organization, upload.file.id)
    return Upload.of(upload)


@router.post("/{upload_id}/cancel")
def cancel_upload(
    upload_id: UploadId, organization: CurrentOrganization, services: CurrentServices
) -> Upload:
    """Give an upload up."""
    return Upload.of(services.uploads.cancel(organization, upload_id))
