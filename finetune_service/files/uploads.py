"""Uploads: files that arrive in parts.

<organisation>/uploads/<upload-id>/upload.json
<organisation>/uploads/<upload-id>/<part-id>
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock

from finetune_core.types import new_id
from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
)
from finetune_service.files.folder import Folder, Incoming
from finetune_service.files.records import (
    PartRecord,
    Purpose,
    UploadRecord,
    is_id,
    plain_filename,
)
from finetune_service.files.store import BLOCK, FileStore

PART_BYTES = 64 << 20
LIFETIME_SECONDS = 3600
KEPT_SECONDS = 24 * 3600  # that an upload which is over is still told of
UPLOAD = "upload.json"


class Uploads:
    """The uploads in parts of an installation.

    Args:
        files: Where they go when they are complete.
        max_bytes: The bytes that a file may have.
    """

    def __init__(self, files: FileStore, max_bytes: int) -> None:
        self._files, self._max_bytes = files, max_bytes

    def create(
        self,
        organization: str,
        *,
        filename: str,
        purpose: Purpose,
        size: int,
        lifetime: int | None = None,
    ) -> UploadRecord:
        """Begins an upload.

        Args:
            organization: Whose it is.
            filename: What a person calls the file.
            purpose: What the file is for.
            size: The bytes that the file will have.
            lifetime: The seconds after which the file is gone.

        Raises:
            TooLargeError: The file would have more bytes than are allowed.
        """
        if size > self._max_bytes:
            raise TooLargeError(f"A file may have at most {self._max_bytes:,} bytes.")
        created = int(self._files.now())
        upload = UploadRecord(
            id=new_id("upload"),
            bytes=size,
            created_at=created,
            expires_at=created + LIFETIME_SECONDS,
            filename=plain_filename(filename),
            purpose=purpose,
            file_lifetime=lifetime,
        )
        _write(self._files.folder(organization), upload)
        return upload

    def get(self, organization: str, upload_id: str) -> UploadRecord:
        """An upload's record.

        Raises:
            NotFoundError: There is none.
        """
        content = None
        if is_id("upload", upload_id):
            content = self._files.folder(organization).read(f"uploads/{upload_id}/{UPLOAD}")
        if content is None:
            raise NotFoundError(f"No such Upload object: {upload_id}")
        upload = UploadRecord.model_validate_json(content)
        if upload.status == "pending" and upload.expires_at <= self._files.now():
            return upload.model_copy(update={"status": "expired"})
        return upload

    def pending(self, organization: str, upload_id: str) -> UploadRecord:
        """The record of an upload that is not over.

        Raises:
            NotFoundError: There is none.
            ConflictError: It is over.
        """
        upload = self.get(organization, upload_id)
        if upload.status != "pending":
            raise ConflictError(f"{upload_id} is {upload.status}.")
        return upload

    def incoming(self, organization: str) -> Incoming:
        """Gives a file to write, for `add_part`."""
        return self._files.folder(organization).incoming("uploads")

    def add_part(self, organization: str, upload_id: str, incoming: Incoming) -> PartRecord:
        """Makes a part of what has arrived. Parts may arrive in any order, and at once.

        Raises:
            NotFoundError: There is no such upload.
            ConflictError: It is over.
            TooLargeError: Its parts have more bytes than it was said to have.
        """
        folder = self._files.folder(organization)
        with self._lock(organization, upload_id):
            upload = self.pending(organization, upload_id)
            there = sum(folder.size(_part(upload_id, name)) for name in _parts(folder, upload_id))
            # A part may come twice: the client sends it again when the answer was lost.
            if there + incoming.bytes > 2 * upload.bytes:
                raise TooLargeError(
                    f"{upload_id} was said to have {upload.bytes:,} bytes; its parts have more."
                )
            part = PartRecord(
                id=new_id("part"), upload_id=upload_id, created_at=int(self._files.now())
            )
            incoming.move(_part(upload_id, part.id))
        return part

    def complete(
        self, organization: str, upload_id: str, part_ids: list[str], md5: str | None = None
    ) -> UploadRecord:
        """Makes a file of the parts, in the given order.

        To complete an upload again in the same way gives the same answer: the first may be lost.

        Raises:
            NotFoundError: There is no such upload.
            ConflictError: It is over.
            InvalidValueError: A part is not there, or they are not what was said.
        """
        folder = self._files.folder(organization)
        with self._lock(organization, upload_id):
            known = self.get(organization, upload_id)
            if known.status == "completed" and known.part_ids == tuple(part_ids):
                return known
            upload = self.pending(organization, upload_id)
            missing = set(part_ids) - set(_parts(folder, upload_id))
            if missing or len(set(part_ids)) < len(part_ids):
                problem = f"no such part: {min(missing)}" if missing else "a part is named twice"
                raise InvalidValueError(f"{upload_id}: {problem}", param="part_ids")
            with self._files.incoming(organization) as incoming:
                for part_id in part_ids:
                    with folder.open(_part(upload_id, part_id)) as part:
                        while block := part.read(BLOCK):
                            incoming.write(block)
                if incoming.bytes != upload.bytes:
                    raise InvalidValueError(
                        f"{upload_id} was said to have {upload.bytes:,} bytes; "
                        f"the parts have {incoming.bytes:,}.",
                        param="part_ids",
                    )
                if md5 is not None and md5.lower() != incoming.md5:
                    raise InvalidValueError(
                        f"The MD5 of the parts is {incoming.md5}, not {md5}.", param="md5"
                    )
                file = self._files.add(
                    organization,
                    incoming,
                    filename=upload.filename,
                    purpose=upload.purpose,
                    lifetime=upload.file_lifetime,
                )
            return self._end(
                folder, upload, status="completed", part_ids=tuple(part_ids), file=file
            )

    def cancel(self, organization: str, upload_id: str) -> UploadRecord:
        """Gives an upload up.

        Raises:
            NotFoundError: There is no such upload.
            ConflictError: It is over.
        """
        with self._lock(organization, upload_id):
            upload = self.pending(organization, upload_id)
            return self._end(self._files.folder(organization), upload, status="cancelled")

    def sweep(self, organization: str) -> None:
        """Removes the parts of expired uploads, and what was kept of those long over."""
        folder = self._files.folder(organization)
        for upload_id in folder.names("uploads"):
            if not is_id("upload", upload_id):
                continue
            with self._lock(organization, upload_id):
                upload = self.get(organization, upload_id)
                if upload.status == "expired" and _parts(folder, upload_id):
                    self._end(folder, upload, status="expired")
                if upload.status != "pending" and (
                    upload.expires_at + KEPT_SECONDS < self._files.now()
                ):
                    folder.remove(f"uploads/{upload_id}")
                    self._lock_file(organization, upload_id).unlink(missing_ok=True)

    def _end(self, folder: Folder, upload: UploadRecord, **change: object) -> UploadRecord:
        upload = upload.model_copy(update=change)
        _write(folder, upload)
        for name in _parts(folder, upload.id):
            folder.remove(_part(upload.id, name))
        return upload

    def _lock(self, organization: str, upload_id: str) -> AbstractContextManager[object]:
        """One change of an upload at a time; an upload that is not there makes no lock file."""
        self.get(organization, upload_id)
        return FileLock(self._lock_file(organization, upload_id))

    def _lock_file(self, organization: str, upload_id: str) -> Path:
        folder = self._files.private(organization) / "locks"
        folder.mkdir(exist_ok=True)
        return folder / upload_id


def _part(upload_id: str, part_id: str) -> str:
    return f"uploads/{upload_id}/{part_id}"


def _parts(folder: Folder, upload_id: str) -> list[str]:
    return [name for name in folder.names(f"uploads/{upload_id}") if is_id("part", name)]


def _write(folder: Folder, upload: UploadRecord) -> None:
    folder.write(f"uploads/{upload.id}/{UPLOAD}", upload.model_dump_json(indent=2).encode())
