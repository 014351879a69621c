"""Folders that are either whole or not there, and the digests that tell what is in them.

A stage writes into a temporary folder beside the final one; a manifest with the sha256 of
every file is added, everything is synced, and one rename makes it visible. So a folder with
a manifest is whole, and a half-written one is never taken for it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from finetune_core.exceptions import DamagedFolderError, OutputError
from finetune_core.types import StageRecord

MANIFEST = "manifest.json"
RECORD = "record.json"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

R = TypeVar("R", bound=StageRecord)


def digest_file(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """The sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_folder(folder: Path) -> str:
    """The sha256 over the names and contents of a folder's files."""
    return digest_json(_file_digests(folder))


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is either the old one or the new one, whole."""
    text = json.dumps(value, indent=2, default=str)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def from_here(path: Path) -> Path:
    """A path as a person writes it: short where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def bytes_in(folder: Path) -> int:
    """The bytes of a folder's files; of one that is not there, none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_free(folder: Path) -> None:
    """Refuses a folder that has something in it already.

    Raises:
        OutputError: It has, or it is a file.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(f"{folder} is there already", hint="Name a folder that is not.")


def free_bytes(folder: Path) -> int:
    """The bytes that may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


def lacks_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that a disk is full, or one's share of it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `final`, whole, when the block ends well.

    Where another process made `final` in the meantime, its folder stays: the names are
    derived from the content, so both hold the same.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        publish(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(folder: Path, final: Path, **facts: Any) -> None:
    """Adds the manifest to a written folder, syncs it and renames it to `final`.

    Args:
        folder: The written folder, on the same file system as `final`.
        final: The name that it gets.
        facts: What else the manifest says of the folder.
    """
    write_json(folder / MANIFEST, {"files": _file_digests(folder), **facts})
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)
    try:
        os.rename(folder, final)
    except OSError:
        if not is_whole(final):
            raise
    _sync(final.parent)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a whole folder.

    Raises:
        DamagedFolderError: There is none.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise DamagedFolderError(f"{folder} has no readable {MANIFEST}") from error
    return manifest


def is_whole(folder: Path) -> bool:
    """Whether a folder was finished: its manifest came last, with everything before it."""
    return (folder / MANIFEST).is_file()


def verify(folder: Path) -> None:
    """Reads every file of a folder again and compares it with the manifest.

    Raises:
        DamagedFolderError: A file is missing or its bytes have changed.
    """
    expected = read_manifest(folder)["files"]
    found = _file_digests(folder)
    for name, digest in expected.items():
        if found.get(name) != digest:
            problem = "has changed" if name in found else "is missing"
            raise DamagedFolderError(f"{folder}: {name} {problem}")


def finished(folder: Path, record_type: type[R]) -> R | None:
    """The record of a stage whose folder is whole, or nothing."""
    if not is_whole(folder):
        return None
    return read_record(folder, record_type).model_copy(update={"cached": True})


def once(folder: Path, record_type: type[R], build: Callable[[Path], R]) -> R:
    """Runs a stage unless its folder is already whole, and gives its record.

    Args:
        folder: Where the stage's files lie when it is finished.
        record_type: The record that the stage hands on.
        build: Writes the files into the temporary folder that it is given, and returns the
            record.
    """
    if record := finished(folder, record_type):
        return record
    with new_folder(folder) as temporary:
        write_record(temporary, build(temporary))
    return read_record(folder, record_type)


def write_record(folder: Path, record: StageRecord) -> None:
    """Writes a stage's record beside its files; where the folder lies is not part of it."""
    write_json(
        folder / RECORD,
        record.model_dump(mode="json", exclude={"folder", "seconds", "cached"}),
    )


def read_record(folder: Path, record_type: type[R]) -> R:
    """Reads the record that `write_record` wrote.

    Raises:
        DamagedFolderError: It is not there or cannot be read.
    """
    try:
        fields = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise DamagedFolderError(f"{folder} has no readable {RECORD}") from error
    return record_type.model_validate({**fields, "folder": folder})


def _file_digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): digest_file(path) for path in sorted(files)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
