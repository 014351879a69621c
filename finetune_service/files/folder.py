"""A folder on any file system that fsspec knows, in which each file is whole or not there."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from finetune_core.types import new_id

INCOMING = "incoming"


class Folder:
    """Files by name under one root.

    Args:
        url: The root: a path, or a URL such as s3://bucket/prefix.
    """

    def __init__(self, url: str) -> None:
        # Another process writes here too: a remembered listing would be an old one.
        self._fs, root = url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the files are this machine's."""
        return isinstance(self._fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """A file's path on its file system."""
        return f"{self._root}/{name}"

    def names(self, name: str = "") -> list[str]:
        """The names in a folder, in order; none where there is no such folder."""
        path = self.path(name).rstrip("/")
        try:
            if self.is_local:  # fsspec's own looks at each name, and takes ten times as long
                return sorted(os.listdir(path))
            found = self._fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._fs.exists(self.path(name)))

    def size(self, name: str) -> int:
        """The bytes of a file."""
        return int(self._fs.size(self.path(name)))

    def modified(self, name: str) -> float:
        """When a file was written, in seconds since 1970."""
        return float(self._fs.modified(self.path(name)).timestamp())

    def read(self, name: str) -> bytes | None:
        """A small file's bytes, or nothing where it is not there."""
        try:
            content: bytes = self._fs.cat_file(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file, in place of one that is there."""
        with self.incoming(name.partition("/")[0]) as incoming:
            incoming.write(content)
            incoming.move(name)

    def open(self, name: str) -> IO[bytes]:
        """Opens a file to read it."""
        file: IO[bytes] = self._fs.open(self.path(name), "rb")
        return file

    def fetch(self, name: str, to: Path) -> None:
        """Copies a file to this machine."""
        self._fs.get_file(self.path(name), str(to))

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm(self.path(name), recursive=True)

    def incoming(self, prefix: str) -> Incoming:
        """A new file to write."""
        return Incoming(self, f"{prefix}/{INCOMING}/{new_id('incoming')}")


class Incoming:
    """Bytes that arrive, and their digests; gone again after a `with` block unless moved in it.

    They have no name yet by which anybody would read them.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        folder._fs.makedirs(folder.path(name).rpartition("/")[0], exist_ok=True)
        # Any, as each file system has a class of its own.
        self._file: Any = folder._fs.open(folder.path(name), "wb")
        self._sha256, self._md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self.bytes = 0
        self._moved = False

    @property
    def sha256(self) -> str:
        """The sha256 of what has arrived."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """The MD5 of what has arrived, which a client may have named."""
        return self._md5.hexdigest()

    def write(self, block: bytes) -> None:
        """Adds bytes."""
        self._file.write(block)
        self._sha256.update(block)
        self._md5.update(block)
        self.bytes += len(block)

    def move(self, name: str) -> None:
        """Gives it its name; it is on the disk by then."""
        folder = self._folder
        if folder.is_local:
            self._file.flush()
            os.fsync(self._file.f.fileno())
        self._file.close()
        folder._fs.makedirs(folder.path(name).rpartition("/")[0], exist_ok=True)
        folder._fs.mv(folder.path(self._name), folder.path(name))
        self._moved = True

    def discard(self) -> None:
        """Removes it, unless it was moved."""
        if not self._moved:
            with suppress(OSError):  # the disk may be full, so that the last block stays out
                self._file.close()
            self._folder.remove(self._name)

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()
