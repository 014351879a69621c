"""Validations: uploaded files are checked in the background, and expired ones removed."""

from __future__ import annotations

import logging
import shutil
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from finetune_core import child
from finetune_core.exceptions import FineTuneError, InputError
from finetune_service.exceptions import NotFoundError
from finetune_service.files.check import FileCheck, FileCheckRequest
from finetune_service.files.records import FileRecord, FileStatus
from finetune_service.files.store import FileStore
from finetune_service.files.uploads import Uploads

SWEEP_SECONDS = 20.0

log = logging.getLogger(__name__)


class Validations:
    """Checks the files that wait for it, a few at once, each in a process of its own.

    What waits is told by the records alone: now and then, and so also after a start, those that
    are `uploaded` are taken up. A lock, which ends with its process, says that somebody is at one.

    Args:
        files: The files.
        uploads: The uploads, of which expired ones are removed.
        workers: How many files are checked at once.
    """

    def __init__(self, files: FileStore, uploads: Uploads, workers: int) -> None:
        self._files, self._uploads, self._workers = files, uploads, workers
        self._waiting: OrderedDict[str, dict[str, None]] = OrderedDict()  # files by organisation
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins to work, and takes up what was left."""
        targets = [self._sweep_on, *[self._work] * self._workers]
        for target in targets:
            # A daemon, so that a server ends at once: the check's process ends with it, and the
            # next server begins it anew.
            threading.Thread(
                target=target, name=f"validations{target.__name__}", daemon=True
            ).start()

    def stop(self) -> None:
        """Begins nothing more."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def add(self, organization: str, file_id: str) -> None:
        """Has a file checked. One that waits already is not put in twice."""
        with self._changed:
            self._waiting.setdefault(organization, {})[file_id] = None
            self._changed.notify()

    def _next(self) -> tuple[str, str] | None:
        """The next file; organisations take turns, so none waits for all files of another."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped.is_set())
            if self._stopped.is_set():
                return None
            organization, waiting = self._waiting.popitem(last=False)
            file_id = next(iter(waiting))
            del waiting[file_id]
            if waiting:
                self._waiting[organization] = waiting
            return organization, file_id

    def _work(self) -> None:
        while found := self._next():
            organization, file_id = found
            try:
                self._validate(organization, file_id)
            except Exception:  # the next sweep tries again
                log.exception("the check of %s", file_id)

    def _validate(self, organization: str, file_id: str) -> None:
        folder = self._files.private(organization) / "validations" / file_id
        folder.parent.mkdir(exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"), blocking=False)
        with suppress(Timeout, NotFoundError), lock:
            try:
                record = self._files.get(organization, file_id)
                if record.status == "uploaded":
                    status, details = self._check(organization, record, folder)
                    self._files.set_status(organization, file_id, status, details)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                # Who opened it in this moment finds a file that is no longer `uploaded`.
                Path(lock.lock_file).unlink(missing_ok=True)

    def _check(
        self, organization: str, record: FileRecord, folder: Path
    ) -> tuple[FileStatus, str | None]:
        shutil.rmtree(folder, ignore_errors=True)  # what a server that was ended has left
        folder.mkdir()
        path = self._files.local_path(organization, record)
        request = FileCheckRequest(path=path, folder=folder)
        try:
            found = child.run(
                "finetune_service.files.check:check_file", request, FileCheck, folder=folder
            )
        except InputError as error:
            # Said of the file as its owner knows it, not of where it lies here.
            return "error", str(error).replace(str(path), record.filename)
        except FineTuneError as error:
            if not path.exists():
                raise NotFoundError(f"No such File object: {record.id}") from None
            log.error("the check of %s: %s", record.id, error)
            return "error", f"{record.filename} could not be checked: the check itself failed."
        return "processed", found.remarks

    def _sweep_on(self) -> None:
        while not self._stopped.is_set():
            try:
                for organization in self._files.organizations():
                    self._files.sweep(organization)
                    self._uploads.sweep(organization)
                    for record in self._files.list(organization, descending=False):
                        if record.status == "uploaded":
                            self.add(organization, record.id)
            except Exception:  # whatever it was, the next round comes
                log.exception("the sweep")
            self._stopped.wait(SWEEP_SECONDS)
