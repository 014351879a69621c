"""What of a home a backup holds, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from finetune_core.jobs import CONFIG, LOCK
from finetune_core.storage import MANIFEST
from finetune_service.jobs.store import DELETED, JOB, OUTCOME, RESULTS
from finetune_service.upkeep.databases import is_sqlite

# What says of a job what has become of it, beside its events: read before the databases.
STATE = (CONFIG, JOB, OUTCOME, RESULTS, DELETED, "control", "tracking")
# Read last in their folders: a manifest promises what lies beside it, and a job that goes on from
# a checkpoint must find the events up to it.
LAST = (MANIFEST, "logs", "events.jsonl")
STACK = ("settings.json", "secrets", "prefect")  # what of the stack's folder cannot be made anew
NOT_KEPT = ("logs", "postgres")
LOCK_ENDING = ".lock"
SQLITE_BESIDE = (".db-wal", ".db-shm", ".db-journal")  # what SQLite keeps beside its file
SOMEBODYS = ("artifacts", "content")  # folders in which a name says nothing: people chose it


class Contents:
    """The files of a home, as they are when a backup begins.

    Args:
        home: `FINETUNE_HOME`.
        left_out: What is not to be in it, with all below.
    """

    def __init__(self, home: Path, left_out: frozenset[Path]) -> None:
        self.home, self._left_out = home, left_out
        self._jobs = {path for path in home.glob("organizations/*/jobs/ftjob-*") if path.is_dir()}

    def state(self) -> Iterator[Path]:
        """What points into the databases, and must not be newer than they."""
        yield from self._below(self.home / "keys.json")
        for organization in sorted(self.home.glob("organizations/[!.]*")):
            yield from self._below(organization / "mlflow-user.json")
        for job in sorted(self._jobs):
            for name in STATE:
                yield from self._below(job / name)
        # After the jobs, which name files, and before the bytes, which files name.
        for records in sorted(self.home.glob("organizations/[!.]*/files/records")):
            yield from self._below(records)

    def rest(self) -> Iterator[Path]:
        """Everything, folders before what is in them; what `state` gives is among it."""
        for path in _ordered(self.home):
            if path.name not in NOT_KEPT and not path.name.startswith("."):
                yield from self._below(path)

    def is_state(self, path: Path) -> bool:
        """Whether a path is of what `state` gives, or would be if it had been there."""
        parts = self._parts(path)
        if parts[0] != "organizations":
            return parts == ("keys.json",)
        if parts[2:3] == ("jobs",):
            return parts[4:5] != () and parts[4] in STATE
        return parts[2:] == ("mlflow-user.json",) or parts[2:4] == ("files", "records")

    def databases(self) -> Iterator[Path]:
        """The SQLite databases of ours, which are copied as one moment has them."""
        for path in self.rest():
            if path.is_file() and not _is_somebodys(self._parts(path)) and is_sqlite(path):
                yield path

    def _parts(self, path: Path) -> tuple[str, ...]:
        return path.relative_to(self.home).parts

    def _below(self, path: Path) -> Iterator[Path]:
        if not self._is_kept(path) or not os.path.lexists(path):
            return
        yield path
        if path.is_dir() and not path.is_symlink():
            for each in _ordered(path):
                yield from self._below(each)

    def _is_kept(self, path: Path) -> bool:
        parts, name = self._parts(path), path.name
        if path in self._left_out:
            return False
        if _is_somebodys(parts):
            return True
        if name == LOCK or name.endswith((LOCK_ENDING, *SQLITE_BESIDE)):
            return False
        if parts[0] == "stack" and len(parts) > 1 and parts[1] not in STACK:
            return False
        if parts[0] == "organizations":
            if name.startswith("."):  # half-made
                return False
            if parts[2:3] == ("jobs",) and len(parts) == 4:
                return path in self._jobs  # a job that came later is not in the databases
        return True


def _is_somebodys(parts: tuple[str, ...]) -> bool:
    return any(name in parts[:-1] for name in SOMEBODYS)


def _ordered(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: (path.name in LAST, path.name))
    except FileNotFoundError:
        return []
