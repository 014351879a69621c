"""Opens data files as text: unpacked within a limit, and in the encoding that they are in."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from finetune_core.exceptions import DatasetFormatError

PACKED = (".gz", ".zst")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@contextmanager
def open_text(path: Path, limit: int, newline: str | None = None) -> Iterator[TextIO]:
    """Opens a file as text: UTF-8 or UTF-16 by its mark, UTF-8 without one.

    Args:
        path: The file; .gz and .zst are unpacked as they are read.
        limit: The bytes that it may unpack to.
        newline: As the built-in `open` has it.

    Raises:
        DatasetFormatError: It is not text, is packed wrongly, or unpacks to more.
    """
    try:
        with io.BufferedReader(_Bytes(path, limit)) as file:
            start = file.peek(4)
            if b"\0" in start[:2] and start.strip(b"\0"):
                raise DatasetFormatError(
                    f"{path}: seems to be UTF-16 without its mark", hint="Save the file as UTF-8."
                )
            encoding = next(
                (name for mark, name in MARKS.items() if start.startswith(mark)), "utf-8"
            )
            yield io.TextIOWrapper(file, encoding=encoding, newline=newline)
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise DatasetFormatError(
            f"{path}{_broken_line(path, limit)}: is not UTF-8 text ({reason})",
            hint="Save the file as UTF-8.",
        ) from None
    except (EOFError, OSError, zlib.error) as error:
        raise DatasetFormatError(f"{path}: cannot be read ({error})") from None


def _broken_line(path: Path, limit: int) -> str:
    """Where the text first cannot be decoded: the decoder itself counts from its last block."""
    with io.BufferedReader(_Bytes(path, limit)) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeError:
                return f", line {number}"
    return ""


class _Bytes(io.RawIOBase):
    """The unpacked bytes of a file, up to a limit: a small file may unpack to a full disk."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._source = _unpacked(path)
        self._limit = limit
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._source.read(len(buffer))
        self._read += len(block)
        if self._read > self._limit:
            raise DatasetFormatError(
                f"{self._path}: unpacks to more than {self._limit / 2**20:,.0f} MiB",
                hint="Raise dataset.max_unpacked_mb if it is meant to be so large.",
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._source.close()
        super().close()


def _unpacked(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return pa.input_stream(str(path), compression="zstd")
    return path.open("rb")
