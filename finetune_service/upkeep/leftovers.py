"""What is left of what is over: expired files, lost uploads, requests, half-made things, logs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune_service.files import FileStore, Uploads
from finetune_service.files.folder import INCOMING, Folder
from finetune_service.files.records import FileRecord, UploadRecord, is_id
from finetune_service.files.store import LOST_SECONDS
from finetune_service.files.uploads import KEPT_SECONDS, UPLOAD
from finetune_service.jobs.store import JobStore
from finetune_service.upkeep.removal import Removable, gone, newest, removable
from finetune_service.upkeep.settings import DAY, KeepSettings

WORKS = ("checks", "evaluations", "merges")  # one folder each time, with its events and its log
HALF_MADE_IN = ("", "jobs", "requests", "cache/data", "cache/tokens", "cache/files", *WORKS)
UNNAMED = "bytes that belong to no file"
ROTATED = re.compile(r".*\.log\.\d+")


class OldFiles:
    """Uploaded files whose time is over, and uploads that nobody goes on with.

    The API removes them too, while it runs, by the same `sweep`.

    Args:
        files: The files.
        uploads: The uploads.
        organization: Whose.
    """

    def __init__(self, files: FileStore, uploads: Uploads, organization: str) -> None:
        self._files, self._uploads, self._organization = files, uploads, organization

    def find(self) -> Iterator[Removable]:
        """What `sweep` would remove."""
        folder, now = self._files.folder(self._organization), self._files.now()
        known = set()
        for name in folder.names("files/records"):
            content = folder.read(f"files/records/{name}")
            record = FileRecord.model_validate_json(content) if content else None
            if record is None:
                continue
            known.add(record.id)
            expired = record.expires_at is not None and record.expires_at <= now
            if expired and not self._files.in_use(self._organization, record.id):
                path = Path(folder.path(f"files/records/{name}"))
                yield Removable("file", path, record.bytes, "expired, no job needs it")
        for name in folder.names("files/content"):
            yield from self._unnamed(folder, f"files/content/{name}", known)
        for kind in ("files", "uploads"):
            for name in folder.names(f"{kind}/{INCOMING}"):
                where = f"{kind}/{INCOMING}/{name}"
                if folder.modified(where) < now - LOST_SECONDS:
                    path = Path(folder.path(where))
                    yield Removable("upload", path, folder.size(where), "has not arrived in a day")
        for name in folder.names("uploads"):
            content = folder.read(f"uploads/{name}/{UPLOAD}") if is_id("upload", name) else None
            if content:
                yield from self._upload(folder, UploadRecord.model_validate_json(content), now)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Sweeps, as the API does; bytes without a file, which no API sees, are removed here."""
        self._files.sweep(self._organization)
        self._uploads.sweep(self._organization)
        folder = self._files.folder(self._organization)
        with self._files.lock(self._organization):  # under which bytes get their file
            for each in self.find():
                if each.why == UNNAMED:
                    folder.remove(f"files/content/{each.path.name}")
        left = {each.path for each in self.find()}
        return [each for each in found if each.path not in left]

    def _unnamed(self, folder: Folder, where: str, known: set[str]) -> Iterator[Removable]:
        """Bytes that a process which was killed has put in their place, and made no file of."""
        names = folder.names(where)
        if known.isdisjoint(names):
            bytes_ = sum(folder.size(f"{where}/{name}") for name in names)
            times = [folder.modified(f"{where}/{name}") for name in names]
            if max(times, default=0.0) < self._files.now() - LOST_SECONDS:
                yield Removable("file", Path(folder.path(where)), bytes_, UNNAMED)

    def _upload(self, folder: Folder, upload: UploadRecord, now: float) -> Iterator[Removable]:
        where = f"uploads/{upload.id}"
        parts = [name for name in folder.names(where) if name != UPLOAD]
        over = upload.expires_at + KEPT_SECONDS < now
        abandoned = upload.status == "pending" and upload.expires_at <= now and parts
        if over or abandoned:
            bytes_ = sum(folder.size(f"{where}/{name}") for name in parts)
            yield Removable("upload", Path(folder.path(where)), bytes_, "over, or abandoned")


class OldRequests:
    """What was remembered of idempotency keys.

    Args:
        files: Whose lock jobs are made under.
        store: The jobs.
        organization: Whose.
        keep: For how long.
        now: Seconds since 1970.
    """

    def __init__(
        self, files: FileStore, store: JobStore, organization: str, keep: KeepSettings, now: float
    ) -> None:
        self._files, self._organization = files, organization
        self._folder = store.home_of(organization) / "requests"
        self._since = now - keep.keep_request_days * DAY
        self._why = f"{keep.keep_request_days:g} days old"

    def find(self) -> Iterator[Removable]:
        """Those that are old."""
        for path in sorted(self._folder.glob("[!.]*.json")):
            if newest(path) < self._since:
                yield removable("request", path, self._why)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes them, while no job is made."""
        with self._files.lock(self._organization):
            return gone(found)


class HalfMade:
    """What was begun beside its place by a process that was killed, and what works have left.

    Args:
        folder: An organisation's.
        keep: For how long works are kept.
        now: Seconds since 1970.
    """

    def __init__(self, folder: Path, keep: KeepSettings, now: float) -> None:
        self._folder, self._now = folder, now
        self._since = now - keep.keep_log_days * DAY
        self._why = f"{keep.keep_log_days:g} days old"

    def find(self) -> Iterator[Removable]:
        """What nothing was written to for long."""
        for name in HALF_MADE_IN:
            for path in sorted((self._folder / name).glob(".*")):
                if newest(path) < self._now - DAY:
                    yield removable("half-made", path, "older than a day")
        for name in WORKS:
            for path in sorted((self._folder / name).glob("[!.]*")):
                if newest(path) < self._since:
                    yield removable("work", path, self._why)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes it."""
        return gone(found)


class RotatedLogs:
    """The logs of the installation that nothing is written to any more.

    Args:
        home: `FINETUNE_HOME`.
        keep: For how long.
        now: Seconds since 1970.
    """

    def __init__(self, home: Path, keep: KeepSettings, now: float) -> None:
        self._folders = (home / "logs", home / "stack" / "logs")
        self._since = now - keep.keep_log_days * DAY
        self._why = f"{keep.keep_log_days:g} days old"

    def find(self) -> Iterator[Removable]:
        """Those that are old."""
        for folder in self._folders:
            for path in sorted(folder.glob("*.log.*")):
                if ROTATED.fullmatch(path.name) and newest(path) < self._since:
                    yield removable("log", path, self._why)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes them."""
        return gone(found)
