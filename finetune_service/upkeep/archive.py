"""A tar archive that can tell whether it is as it was written: its last member has the digests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from finetune_core.exceptions import OutputError
from finetune_service.upkeep.exceptions import DamagedArchiveError

MANIFEST = "manifest.json"
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")
GZIP_HEAD, ZSTD_HEAD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SMALL = 1 << 20  # a file of this size is read at once, so that it cannot change meanwhile
BLOCK = 1 << 20


class Writer:
    """Adds members, and at the end the digests of them all."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._digests: dict[str, str] = {}
        self.names: set[str] = set()

    def add(self, name: str, path: Path) -> None:
        """Adds a file, a folder without what is in it, or a link; what has vanished is left out.

        A file that grows meanwhile is in it as long as it was at first.

        Raises:
            OSError: A file got shorter meanwhile.
        """
        try:
            info = self._tar.gettarinfo(path, name)
            if info is not None and info.islnk():  # a file's second name is a file of its own here
                info.type, info.linkname = tarfile.REGTYPE, ""
            file = path.open("rb") if info is not None and info.isreg() else None
        except FileNotFoundError:
            return
        if info is None:  # a socket, of which nothing can be kept
            return
        info.uname = info.gname = ""
        info.uid = info.gid = 0
        info.mtime = int(info.mtime)  # a fraction would stand where no checksum is
        self.names.add(name)
        if file is None:
            self._tar.addfile(info)
            return
        with file:
            self._put(info, file)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Adds a file that is nowhere yet."""
        info = tarfile.TarInfo(name)
        info.mode = 0o600
        info.size = len(content)
        self.names.add(name)
        self._put(info, io.BytesIO(content))

    @property
    def files(self) -> int:
        """How many files there are among the members."""
        return len(self._digests)

    def finish(self) -> None:
        """Adds the digests."""
        content = json.dumps({"sha256": self._digests}, indent=1).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.mode = 0o600
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))

    def _put(self, info: tarfile.TarInfo, file: IO[bytes]) -> None:
        if not isinstance(file, io.BytesIO):
            info.size = os.fstat(file.fileno()).st_size
            if info.size <= SMALL:
                file = io.BytesIO(file.read())
                info.size = file.getbuffer().nbytes
        digesting = _Digesting(file)
        self._tar.addfile(info, digesting)
        self._digests[info.name] = digesting.sha256.hexdigest()


class _Digesting(io.RawIOBase):
    """A file that is read, and the digest of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.sha256.update(block)
        return block


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Writes an archive beside its place, private to its owner; it is there when it is whole."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file, ExitStack() as stack:
            packed = stack.enter_context(_packed(path.name, file))
            packing = tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            writer = Writer(stack.enter_context(packing))
            yield writer
            writer.finish()
        with half.open("rb") as written:
            os.fsync(written.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def unpack(path: Path, folder: Path) -> None:
    """Unpacks an archive into an empty folder, and compares every byte with its digest.

    Raises:
        DamagedArchiveError: It is not as it was written.
        OutputError: It cannot be read, or the folder not be written.
    """
    digests: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    try:
        with (
            path.open("rb") as file,
            _unpacked(file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                if manifest is not None:
                    raise DamagedArchiveError(f"{path} has something behind its digests")
                content = tar.extractfile(member) if member.isreg() else None
                if member.name == MANIFEST and content:
                    manifest = json.loads(content.read())
                    continue
                digest = _put(member, content, folder)
                if digest is not None:
                    digests[member.name] = digest
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the packing's
            raise OutputError(f"{path} is not unpacked to {folder}: {error.strerror}") from None
        raise DamagedArchiveError(f"{path} cannot be read as a backup: {error}") from None
    if manifest is None:
        raise DamagedArchiveError(f"{path} is not whole: its digests, which come last, are missing")
    expected = manifest.get("sha256")
    if expected != digests:
        known = expected if isinstance(expected, dict) else {}
        wrong = sorted(
            name for name in known.keys() | digests.keys() if known.get(name) != digests.get(name)
        )
        raise DamagedArchiveError(f"{path}: {wrong[0] if wrong else MANIFEST} has changed")


def _put(member: tarfile.TarInfo, content: IO[bytes] | None, folder: Path) -> str | None:
    """Writes a member into a folder, and nowhere else; gives a file's digest."""
    name = PurePosixPath(member.name)
    path = folder / name
    # Nothing is written through a link, which another member could have made.
    leads_out = any(each.is_symlink() for each in path.parents if each.is_relative_to(folder))
    if name.is_absolute() or ".." in name.parts or leads_out:
        raise ValueError(f"{member.name} leads out of it")
    mode = member.mode & 0o777
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode | 0o700)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return None
    if content is None:
        raise ValueError(f"{member.name} is neither a file nor a folder")
    sha256 = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        while block := content.read(BLOCK):
            sha256.update(block)
            file.write(block)
        file.flush()  # which would be the time of the last change
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (member.mtime, member.mtime))
    return sha256.hexdigest()


@contextmanager
def _packed(name: str, file: IO[bytes]) -> Iterator[Any]:
    """What packs all that is written to it, as the archive's name says."""
    if name.endswith((".gz", ".tgz")):
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", compresslevel=6) as packed:
            yield packed
    elif name.endswith(".zst"):
        import pyarrow as pa

        with pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd") as packed:
            yield packed
    else:
        yield file


@contextmanager
def _unpacked(file: IO[bytes]) -> Iterator[Any]:
    """What is in a file, packed or not, whatever it is called."""
    head = file.read(len(ZSTD_HEAD))
    file.seek(0)
    if head.startswith(GZIP_HEAD):
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield unpacked
    elif head == ZSTD_HEAD:
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as unpacked:
            yield unpacked
    else:
        yield file
