"""What is kept of a file and of an upload in parts, beside their bytes."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Literal

from finetune_core.types import ID_ALPHABET, Record

FINE_TUNE, RESULTS, USER_DATA = "fine-tune", "fine-tune-results", "user_data"

Purpose = Literal["fine-tune", "fine-tune-results", "user_data"]
FileStatus = Literal["uploaded", "processed", "error"]
UploadStatus = Literal["pending", "completed", "cancelled", "expired"]

ENDING = re.compile(r"(?:\.[a-z0-9]{1,8})?(?:\.gz|\.zst)|\.[a-z0-9]{1,8}")
NAME_BYTES = 255  # what file systems take, so that a person can save it under its own name
DETAILS_LENGTH = 2_000


class FileRecord(Record):
    """A file: what it is called, what its bytes are, and what has been found about it."""

    id: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: FileStatus
    status_details: str | None = None

    @property
    def ending(self) -> str:
        """The end of the name by which a dataset is read, or nothing."""
        suffixes = PurePosixPath(self.filename.lower()).suffixes
        endings = ("".join(suffixes[-count:]) for count in (2, 1))
        return next((ending for ending in endings if ENDING.fullmatch(ending)), "")


class UploadRecord(Record):
    """An upload in parts: what it is to become, and by when."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: UploadStatus = "pending"
    file_lifetime: int | None = None
    part_ids: tuple[str, ...] = ()
    file: FileRecord | None = None


class PartRecord(Record):
    """A part of an upload."""

    id: str
    upload_id: str
    created_at: int


def id_pattern(kind: str) -> str:
    """What the ids of a kind look like, as a regular expression."""
    return rf"^{kind}-[{ID_ALPHABET}]{{24}}$"


def is_id(kind: str, value: str) -> bool:
    """Whether a text could be an id; nothing else from a request ever becomes part of a path."""
    return bool(re.fullmatch(id_pattern(kind), value))


def plain_filename(name: str) -> str:
    """A name that leads nowhere, breaks no header and no terminal, and fits a file system."""
    name = re.split(r"[/\\]", name)[-1]
    shown = (
        each for each in unicodedata.normalize("NFC", name) if unicodedata.category(each)[0] != "C"
    )
    name = "".join(shown).strip().lstrip(".")
    while len(name.encode()) > NAME_BYTES:
        path = PurePosixPath(name)
        # The ending stays, unless there is nothing else to shorten.
        name = f"{path.stem[:-1]}{path.suffix}" if len(path.stem) > 1 else name[:-1]
    return name or "file"
