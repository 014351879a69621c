"""What may be removed, and its removal: renamed first, so that nobody sees it half-deleted."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock, Timeout

from finetune_service.upkeep.exceptions import UpkeepInUseError


class Removable(NamedTuple):
    """Something that nobody needs any more, and why."""

    kind: str
    path: Path
    bytes: int
    why: str


class Broom(Protocol):
    """Finds and removes what is of one kind."""

    def find(self) -> Iterable[Removable]:
        """What may be removed now; nothing is changed."""

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes what may still be removed, and gives that."""


def removable(kind: str, path: Path, why: str) -> Removable:
    """Something to remove, with its size."""
    return Removable(kind, path, size(path), why)


def size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    return sum(each.st_size for each in _stats(path))


def newest(path: Path) -> float:
    """When anything in a folder, or a file, was last changed."""
    return max((each.st_mtime for each in _stats(path)), default=0.0)


def remove(path: Path) -> None:
    """Removes a file or a folder."""
    with suppress(FileNotFoundError):
        delete(set_aside(path))


def set_aside(path: Path) -> Path:
    """Gives something a name by which nobody looks for it, and which gc knows."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    path.rename(aside)
    return aside


def delete(path: Path) -> None:
    """Deletes what was set aside."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Lets one gc, backup or restore at a time work on a home.

    Raises:
        UpkeepInUseError: Another one does.
    """
    home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "upkeep.lock", mode=0o600).acquire(blocking=False):
            yield
    except Timeout:
        raise UpkeepInUseError(
            f"another gc, backup or restore works on {home}", hint="Wait until it ends."
        ) from None


@contextmanager
def held(file: Path) -> Iterator[bool]:
    """Holds a lock while the block lasts, where nobody else does; says whether that is so."""
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_held(file: Path) -> bool:
    """Whether somebody holds a lock; one without a file is held by nobody, and none is made."""
    if not file.exists():
        return False
    with held(file) as free:
        return not free


def gone(found: Iterable[Removable]) -> list[Removable]:
    """Removes things one by one, and gives them."""
    removed = list(found)
    for each in removed:
        remove(each.path)
    return removed


def _stats(path: Path) -> Iterator[os.stat_result]:
    """A file's, or a folder's and those of all below it; what vanishes meanwhile is left out."""
    with suppress(FileNotFoundError):
        yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                with suppress(FileNotFoundError):
                    yield os.lstat(os.path.join(folder, name))
