"""Changes: which rows came and went between two states of a dataset, by the digest of each row.

A row is known by what it says, so one that moves to another line, or from the training rows to
those held out, is still the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_core.types import CleanData, Record

DIGEST_BYTES = 16
DIGESTS_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),  # training | validation | evaluation: where the row stood
        pa.field("row", pa.int64()),  # its number there, counted from 1
        pa.field("digest", pa.binary(DIGEST_BYTES)),
    ]
)
CHANGES_SCHEMA = pa.schema([pa.field("change", pa.string()), *DIGESTS_SCHEMA])
ADDED, REMOVED = "added", "removed"


class Changes(Record):
    """How many rows came, went and stayed."""

    added: int
    removed: int
    kept: int

    @property
    def drift(self) -> float:
        """The share of rows that came or went, of all that are or were there."""
        changed = self.added + self.removed
        return changed / (changed + self.kept) if changed else 0.0


def write_digests(clean: CleanData, file: Path) -> None:
    """Writes the digest of each row that is learned from or held out.

    Args:
        clean: The rows.
        file: A Parquet file to make, of `DIGESTS_SCHEMA`.
    """
    with pq.ParquetWriter(file, DIGESTS_SCHEMA, compression="zstd") as writer:
        for batch in _digests(clean):
            writer.write_batch(batch)


def find_changes(before: Path, clean: CleanData, ledger: Path) -> Changes:
    """Compares rows with those of before.

    Args:
        before: What `write_digests` wrote then.
        clean: The rows as they are now.
        ledger: A Parquet file to make, of `CHANGES_SCHEMA`: each row that came or went.
    """
    old = pq.read_table(before, schema=DIGESTS_SCHEMA)
    new = pa.Table.from_batches(list(_digests(clean)), schema=DIGESTS_SCHEMA)
    added, kept = _without(new, old)
    removed, _ = _without(old, new)
    tables = [
        table.add_column(
            0, CHANGES_SCHEMA.field("change"), pa.array([name] * len(table), pa.string())
        )
        for name, table in ((ADDED, added), (REMOVED, removed))
    ]
    pq.write_table(pa.concat_tables(tables).cast(CHANGES_SCHEMA), ledger, compression="zstd")
    return Changes(added=len(added), removed=len(removed), kept=kept)


def _without(rows: pa.Table, others: pa.Table) -> tuple[pa.Table, int]:
    """The rows that the others have not, or not as often, and how many they have."""
    left = Counter(others["digest"].to_pylist())
    chosen = []
    for place, digest in enumerate(rows["digest"].to_pylist()):
        if left[digest]:
            left[digest] -= 1
        else:
            chosen.append(place)
    return rows.take(pa.array(chosen, pa.int64())), len(rows) - len(chosen)


def _digests(clean: CleanData) -> Iterator[pa.RecordBatch]:
    for file in (clean.train, clean.validation):
        for batch in pq.ParquetFile(file).iter_batches():
            rows = batch.drop_columns(["file", "row"]).to_pylist()
            digests = [
                sha256(json.dumps(row, sort_keys=True).encode()).digest()[:DIGEST_BYTES]
                for row in rows
            ]
            yield pa.RecordBatch.from_arrays(
                [
                    batch["file"].cast(pa.string()),
                    batch["row"],
                    pa.array(digests, DIGESTS_SCHEMA.field("digest").type),
                ],
                schema=DIGESTS_SCHEMA,
            )
