"""FileStore: the files of organisations, each organisation's under a prefix of its own.

<organisation>/files/records/<file-id>.json
<organisation>/files/content/<sha256>/data.jsonl     bytes that several files may share
                                    /<file-id>       an empty mark for each that does
<organisation>/files/incoming/…                      what is being written
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

from finetune_core.types import new_id
from finetune_service.exceptions import ConflictError, InvalidValueError, NotFoundError
from finetune_service.files.folder import INCOMING, Folder, Incoming
from finetune_service.files.records import (
    DETAILS_LENGTH,
    FINE_TUNE,
    FileRecord,
    FileStatus,
    Purpose,
    is_id,
    plain_filename,
)

LOST_SECONDS = 24 * 3600  # after which a file that is still arriving has been given up
BLOCK = 1 << 20

InUse = Callable[[str, str], bool]


def _never(organization: str, file_id: str) -> bool:
    return False


class FileStore:
    """The files of an installation; any number of processes may use the same home.

    An id of another organisation is looked for under the own prefix, where it is not: nothing
    tells it from one that nobody has.

    Args:
        home: `FINETUNE_HOME`.
        url: Where the files are kept, as fsspec has it; without it, under `home`.
        in_use: Says whether a queued or running job of an organisation needs a file.
        now: The clock.
    """

    def __init__(
        self,
        home: Path,
        url: str | None = None,
        *,
        in_use: InUse = _never,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.home = home.expanduser().absolute()
        self.in_use = in_use
        self.now = now
        self._root = url or str(self.home / "organizations")
        self._lines: dict[str, threading.Lock] = {}

    def private(self, organization: str) -> Path:
        """The organisation's folder on this machine: locks, checks and cache."""
        folder = self.home / "organizations" / organization
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def folder(self, organization: str) -> Folder:
        """All that an organisation keeps here."""
        self.private(organization)
        return Folder(f"{self._root}/{organization}")

    def organizations(self) -> tuple[str, ...]:
        """The organisations that keep something here."""
        return tuple(Folder(self._root).names())

    @contextmanager
    def lock(self, organization: str) -> Iterator[None]:
        """Keeps files from being deleted: who begins to use one does so under it."""
        # Threads wait for each other here, since who waits for the file looks but every 50 ms.
        line = self._lines.setdefault(organization, threading.Lock())
        with line, FileLock(self.private(organization) / "files.lock"):
            yield

    def incoming(self, organization: str) -> Incoming:
        """Gives a file to write, for `add`."""
        return self.folder(organization).incoming("files")

    def add(
        self,
        organization: str,
        incoming: Incoming,
        *,
        filename: str,
        purpose: Purpose,
        lifetime: int | None = None,
    ) -> FileRecord:
        """Makes a file of what has arrived.

        Args:
            organization: Whose it is.
            incoming: The bytes.
            filename: What a person calls it.
            purpose: What it is for; only what is to be learned from is checked.
            lifetime: The seconds after which it is gone.
        """
        created = int(self.now())
        record = FileRecord(
            id=new_id("file"),
            bytes=incoming.bytes,
            sha256=incoming.sha256,
            created_at=created,
            expires_at=created + lifetime if lifetime else None,
            filename=plain_filename(filename),
            purpose=purpose,
            status="uploaded" if purpose == FINE_TUNE else "processed",
        )
        folder = self.folder(organization)
        with self.lock(organization):
            if not folder.exists(_content(record)):
                incoming.move(_content(record))
            folder.write(f"{_shared(record)}/{record.id}", b"")
            _write(folder, record)
        return record

    def put(
        self, organization: str, content: IO[bytes], *, filename: str, purpose: Purpose
    ) -> FileRecord:
        """Makes a file of an open one."""
        with self.incoming(organization) as incoming:
            while block := content.read(BLOCK):
                incoming.write(block)
            return self.add(organization, incoming, filename=filename, purpose=purpose)

    def get(self, organization: str, file_id: str) -> FileRecord:
        """A file's record.

        Raises:
            NotFoundError: There is none, or it has expired.
        """
        record = None
        if is_id("file", file_id):
            record = _read(self.folder(organization), file_id)
        if record is None or self._expired(record):
            raise NotFoundError(f"No such File object: {file_id}")
        return record

    def list(
        self,
        organization: str,
        *,
        purpose: str | None = None,
        descending: bool = True,
        after: str | None = None,
    ) -> Iterator[FileRecord]:
        """The files, by time; they are read only as far as they are taken.

        Raises:
            InvalidValueError: `after` is no file's id.
        """
        if after is not None and not is_id("file", after):
            raise InvalidValueError(f"No such File object: {after}", param="after")
        folder = self.folder(organization)
        ids = [name.removesuffix(".json") for name in folder.names("files/records")]
        if descending:
            ids.reverse()
        for file_id in ids:
            if after and not (file_id < after if descending else file_id > after):
                continue
            record = _read(folder, file_id)
            if record and not self._expired(record) and purpose in (None, record.purpose):
                yield record

    def open(self, organization: str, record: FileRecord) -> IO[bytes]:
        """Opens a file's bytes.

        Raises:
            NotFoundError: It was deleted meanwhile.
        """
        try:
            return self.folder(organization).open(_content(record))
        except FileNotFoundError:
            raise NotFoundError(f"No such File object: {record.id}") from None

    def local_path(self, organization: str, record: FileRecord) -> Path:
        """A file's bytes on this machine, under a name with its ending; not to be changed.

        Raises:
            NotFoundError: It was deleted meanwhile.
        """
        folder = self.folder(organization)
        if folder.is_local:
            return Path(folder.path(_content(record)))
        path = self.private(organization) / "cache/files" / f"{record.sha256}{record.ending}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                folder.fetch(_content(record), temporary)
            except FileNotFoundError:
                raise NotFoundError(f"No such File object: {record.id}") from None
            temporary.replace(path)
        return path

    def set_status(
        self, organization: str, file_id: str, status: FileStatus, details: str | None
    ) -> None:
        """Writes down what was found about a file, unless it is gone."""
        folder = self.folder(organization)
        with self.lock(organization):
            if record := _read(folder, file_id):
                if details and len(details) > DETAILS_LENGTH:
                    details = f"{details[:DETAILS_LENGTH]}…"
                change = {"status": status, "status_details": details}
                _write(folder, record.model_copy(update=change))

    def delete(self, organization: str, file_id: str) -> None:
        """Deletes a file, and its bytes where no other file shares them.

        Raises:
            NotFoundError: There is none.
            ConflictError: A job needs it.
        """
        with self.lock(organization):
            record = self.get(organization, file_id)
            if self.in_use(organization, file_id):
                raise ConflictError(
                    f"A queued or running job needs {file_id}.",
                    hint="Cancel the job first, or wait until it has ended.",
                )
            self._remove(organization, record)

    def sweep(self, organization: str) -> None:
        """Removes what has expired, and what never finished arriving."""
        folder = self.folder(organization)
        for name in folder.names("files/records"):
            record = _read(folder, name.removesuffix(".json"))
            if record and self._expired(record) and not self.in_use(organization, record.id):
                with self.lock(organization):
                    self._remove(organization, record)
        for prefix in (f"files/{INCOMING}", f"uploads/{INCOMING}"):
            for name in folder.names(prefix):
                try:
                    lost = folder.modified(f"{prefix}/{name}") < self.now() - LOST_SECONDS
                except FileNotFoundError:
                    continue
                if lost:
                    folder.remove(f"{prefix}/{name}")

    def _expired(self, record: FileRecord) -> bool:
        return record.expires_at is not None and record.expires_at <= self.now()

    def _remove(self, organization: str, record: FileRecord) -> None:
        folder = self.folder(organization)
        folder.remove(_record(record.id))
        folder.remove(f"{_shared(record)}/{record.id}")
        if not any(is_id("file", name) for name in folder.names(_shared(record))):
            folder.remove(_shared(record))


def _record(file_id: str) -> str:
    return f"files/records/{file_id}.json"


def _shared(record: FileRecord) -> str:
    return f"files/content/{record.sha256}"


def _content(record: FileRecord) -> str:
    return f"{_shared(record)}/data{record.ending}"


def _read(folder: Folder, file_id: str) -> FileRecord | None:
    content = folder.read(_record(file_id))
    return FileRecord.model_validate_json(content) if content else None


def _write(folder: Folder, record: FileRecord) -> None:
    folder.write(_record(record.id), record.model_dump_json(indent=2).encode())
