"""The ledger: what became of every input row, and why, with the row itself unless it was kept.

Personal data and secrets never stand here in clear: what the config has a rule for, were it only
to flag it, is redacted in `original` too. Such a row is the one that cannot be read back whole.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),  # training | validation: the file that the row stood in
        pa.field("row", pa.int64()),  # its number there, counted from 1
        pa.field("outcome", pa.string()),  # kept | changed | dropped
        # The rules that found something, by comma and in order; the last one dropped a dropped row.
        pa.field("rule", pa.string()),
        pa.field("detail", pa.string()),  # what each of them found, by semicolon
        pa.field("original", pa.string()),  # a changed or dropped row as JSON
    ]
)

MESSAGE_TYPE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("trained", pa.bool_()),
        ("tool_calls", pa.string()),
    ]
)
ROWS_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("messages", pa.list_(MESSAGE_TYPE)),
        pa.field("tools", pa.string()),  # what the conversation may call, as JSON
    ]
)


class ParquetRows:
    """Writes rows to a Parquet file as they come, a batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema, batch: int = 1000) -> None:
        self._writer = pq.ParquetWriter(path, schema)
        self._schema = schema
        self._batch = batch
        self._rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Adds a row."""
        self._rows.append(row)
        if len(self._rows) >= self._batch:
            self._flush()

    def __enter__(self) -> ParquetRows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
