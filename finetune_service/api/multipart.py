"""Reads a form with a file in it as it arrives, so that the file is never held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from finetune_service.exceptions import InvalidValueError, TooLargeError
from finetune_service.files.folder import Incoming

BLOCK = 1 << 20
FIELD_BYTES = 64 << 10  # all fields but the file together
OVERHEAD_BYTES = 1 << 20  # what a form may have beside the file: fields, headers, boundaries


@dataclass
class Form:
    """What came with the file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""


@asynccontextmanager
async def arriving(make: Callable[[], Incoming]) -> AsyncIterator[Incoming]:
    """Gives a file to write for the length of a block; made and removed in a thread."""
    incoming = await run_in_threadpool(make)
    try:
        yield incoming
    finally:
        await run_in_threadpool(incoming.discard)


async def read_form(
    request: Request, name: str, write: Callable[[bytes], None], limit: int
) -> Form:
    """Reads a form to its end.

    Args:
        request: The request.
        name: The field that is the file.
        write: Is given the file, block by block, in a thread.
        limit: The bytes that the file may have.

    Raises:
        InvalidValueError: It is no form, or has no such file.
        TooLargeError: The file has more bytes; the rest of it is not read.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidValueError("The request must be multipart/form-data with a boundary.")
    reader = _Reader(name, limit)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_header_end": reader.header_end,
                "on_headers_finished": reader.headers_end,
                "on_part_data": reader.data,
                "on_part_end": reader.part_end,
                "on_end": reader.end,
            },
        )
        async for chunk in request.stream():
            parser.write(chunk)
            if len(reader.block) >= BLOCK:
                await run_in_threadpool(write, reader.take())
        parser.finalize()
    except FormParserError as error:
        raise InvalidValueError(f"The form cannot be read: {error}") from None
    if not reader.ended:
        raise InvalidValueError("The form ends before its last boundary.")
    if not reader.found:
        raise InvalidValueError(f"The form has no file in its field {name!r}.", param=name)
    await run_in_threadpool(write, reader.take())
    return reader.form


class _Reader:
    """Hears what the parser finds, and keeps the file's bytes until they are taken."""

    def __init__(self, name: str, limit: int) -> None:
        self.form = Form()
        self.block = bytearray()
        self.found = self.ended = False
        self._name, self._limit = name, limit
        self._size = self._field_size = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._field: str | None = None
        self._value = bytearray()

    def take(self) -> bytes:
        """The file's bytes since the last time."""
        taken = bytes(self.block)
        self.block.clear()
        return taken

    def begin(self) -> None:
        self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        field = options.get(b"name", b"").decode(errors="replace")
        self._field, self._value = field, bytearray()
        if field == self._name and b"filename" in options:
            if self.found:
                raise InvalidValueError(f"There is more than one {field!r}.", param=field)
            self.found, self._field = True, None
            self.form.filename = options[b"filename"].decode(errors="replace")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._size += end - start
            if self._size > self._limit:
                raise TooLargeError(f"At most {self._limit:,} bytes are allowed.")
            self.block += data[start:end]
            return
        self._field_size += end - start
        if self._field_size > FIELD_BYTES:
            raise TooLargeError(f"The fields have more than {FIELD_BYTES:,} bytes.")
        self._value += data[start:end]

    def part_end(self) -> None:
        if self._field is not None:
            self.form.fields[self._field] = self._value.decode(errors="replace")

    def end(self) -> None:
        self.ended = True
