"""Sanitized and tokenized rows that no job is going to look for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from finetune_core.child import EventFile
from finetune_core.jobs import CONFIG, LOCK
from finetune_core.storage import RECORD
from finetune_service.jobs.store import JobStore
from finetune_service.upkeep.old_jobs import outcome_of
from finetune_service.upkeep.removal import (
    Removable,
    delete,
    is_held,
    newest,
    removable,
    set_aside,
)
from finetune_service.upkeep.settings import DAY, KeepSettings

STAGES = {"data": "sanitize", "tokens": "tokenize"}  # cache folder → who writes it
FILES = "files"  # copies of files that are kept elsewhere


class Named(NamedTuple):
    """What jobs name of a cache."""

    digests: set[str]
    """Of the rows that their stages have told of."""
    configs: str
    """All that their configs say, in which copies of files are named."""
    starting: bool
    """Whether a process works on a job that has not told yet which rows it takes."""


class Caches:
    """The cache of one organisation.

    Args:
        store: The jobs.
        organization: Whose.
        keep: For how long.
        now: Seconds since 1970.
    """

    def __init__(self, store: JobStore, organization: str, keep: KeepSettings, now: float) -> None:
        self._store, self._organization = store, organization
        self._since = now - keep.keep_cache_days * DAY
        self._why = f"not used for {keep.keep_cache_days:g} days, no unfinished job needs it"
        self._root = store.home_of(organization) / "cache"

    def find(self) -> Iterator[Removable]:
        """The folders that no unfinished and no young job names, and nobody has used lately."""
        named = self._named()
        for kind in (*STAGES, FILES):
            for path in sorted((self._root / kind).glob("[!.]*")):
                if used(path) < self._since and not _needs(named, path, path):
                    yield removable("cache", path, self._why)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes them, unless a job that begins in this moment has found one."""
        removed = []
        asides: list[tuple[Removable, Path]] = []
        for each in found:
            with suppress(FileNotFoundError):
                asides.append((each, set_aside(each.path)))
        # Who came before a name was gone is seen now, and who comes later makes the folder anew.
        named = self._named()
        for each, aside in asides:
            if _needs(named, each.path, aside) and not each.path.exists():
                aside.rename(each.path)
            else:
                delete(aside)
                removed.append(each)
        return removed

    def _named(self) -> Named:
        digests: set[str] = set()
        configs: list[str] = []
        starting = False
        for job_id in self._store.ids(self._organization):
            folder = self._store.folder(self._organization, job_id)
            outcome = outcome_of(folder)
            if outcome and outcome.finished_at < self._since:
                continue
            told = _told(folder)
            digests.update(told.values())
            with suppress(FileNotFoundError):
                configs.append((folder / CONFIG).read_text())
            if not told.keys() >= set(STAGES.values()):
                starting = starting or is_held(folder / LOCK)
        return Named(digests, "\n".join(configs), starting)


def used(path: Path) -> float:
    """When rows were last made or read, as far as the file system tells: a job reads the record.

    Many are mounted so that reading is noted once a day, which suffices.
    """
    record = path / RECORD
    with suppress(OSError):
        return max(newest(path), record.stat().st_atime)
    return newest(path)


def _needs(named: Named, path: Path, where: Path) -> bool:
    """Whether a job needs what has, or had, a path, and is somewhere now."""
    if path.parent.name == FILES:
        return path.name in named.configs
    if named.starting:
        return True
    return bool({path.name, _digest(where)} & named.digests)


def _digest(path: Path) -> str:
    """The digest by which events call the rows in a folder."""
    with suppress(OSError, ValueError):
        return str(json.loads((path / RECORD).read_bytes())["digest"])
    return path.name


def _told(folder: Path) -> dict[str, str]:
    """The digests of the rows that a job's stages have told of."""
    return {
        event["data"]["stage"]: event["data"]["digest"]
        for event, _ in EventFile(folder / "events.jsonl").read()
        if event.get("name") == "stage_ended" and "digest" in event["data"]
    }
