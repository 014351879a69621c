"""Sanitize: any file → clean rows in one form, held-out rows apart, and a ledger of every row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from finetune_core.config.sections import DatasetConfig
from finetune_core.data.formats import Format, Message, RowFault, find_format
from finetune_core.data.ledger import LEDGER_SCHEMA, ROWS_SCHEMA, ParquetRows
from finetune_core.data.loading import SourceRow, find_files, read_rows
from finetune_core.data.rules import RULES
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError
from finetune_core.storage import digest_file, digest_json, once
from finetune_core.types import CleanData

VERSION = 1  # raise it when the same input gives other rows than before

TRAINING, VALIDATION = "training", "validation"


def sanitize(config: DatasetConfig, cache: Path) -> CleanData:
    """Reads the dataset, drops what cannot teach, and holds rows out for validation.

    The folder's name is the digest of the input's bytes and of this config section, so equal
    input is sanitized once.

    Args:
        config: The dataset section.
        cache: The folder that holds sanitized data, one folder a digest.

    Raises:
        DatasetError: The file is not there, cannot be read, or has no usable row.
    """
    files = {TRAINING: Path(config.path)}
    if config.validation_path:
        files[VALIDATION] = Path(config.validation_path)
    digests = {name: _digests(path) for name, path in files.items()}
    training = digests[TRAINING]
    source_digest = training[0][1] if len(training) == 1 else digest_json(training)
    fields = config.model_dump(mode="json", exclude={"path", "validation_path"})
    key = digest_json({"files": digests, "config": fields, "version": VERSION})

    def build(folder: Path) -> CleanData:
        return _write(config, files, source_digest, key, folder)

    return once(cache / key, CleanData, build)


def _write(
    config: DatasetConfig, files: dict[str, Path], source_digest: str, key: str, folder: Path
) -> CleanData:
    kept: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    draws: dict[int, float] = {}
    format_name = ""
    clean = folder / "clean.parquet"
    with (
        ParquetRows(clean, ROWS_SCHEMA) as rows,
        ParquetRows(folder / "ledger.parquet", LEDGER_SCHEMA) as ledger,
    ):
        for file, path in files.items():
            rules = {name: make() for name, make in RULES.items()}
            limit = config.max_samples if file == TRAINING else None
            for row, format_, messages in _messages(path, config, limit):
                format_name = format_name or format_.name
                for name, rule in rules.items():
                    if reason := rule(row.number, messages):
                        dropped[name] += 1
                        original = json.dumps(row.values, default=str)
                        ledger.add(
                            file=file, row=row.number, outcome="dropped",
                            rule=name, detail=reason, original=original,
                        )  # fmt: skip
                        break
                else:
                    kept[file] += 1
                    if file == TRAINING:
                        draws[row.number] = _draw(config.seed, messages)
                    rows.add(file=file, row=row.number, messages=messages)
                    ledger.add(file=file, row=row.number, outcome="kept")
    held_out = set() if VALIDATION in files else _held_out(draws, config.validation_ratio)
    train_rows, validation_rows = _split(clean, folder, held_out)
    clean.unlink()
    if not train_rows or not validation_rows:
        reasons = ", ".join(f"{count} {name}" for name, count in dropped.items())
        raise EmptyDatasetError(
            f"{config.path} has too few usable rows: {train_rows} to learn from, "
            f"{validation_rows} held out{f' (dropped: {reasons})' if reasons else ''}",
            hint="At least one row to learn from and one held out are needed.",
        )
    return CleanData(
        folder=folder,
        source_digest=source_digest,
        digest=key,
        format=format_name,
        rows=kept.total() + dropped.total(),
        kept=kept.total(),
        dropped=dropped.total(),
        dropped_by_rule=dict(dropped),
        train_rows=train_rows,
        validation_rows=validation_rows,
    )


def _messages(
    path: Path, config: DatasetConfig, limit: int | None
) -> Iterator[tuple[SourceRow, Format, list[Message]]]:
    """Each row of a file with its messages, in the format that the first row's columns show."""
    format_: Format | None = None
    for row in read_rows(path, limit, config.max_unpacked_mb * 2**20):
        if format_ is None:
            format_ = find_format(row.values, config.input_field, config.output_field)
        try:
            missing = [column for column in format_.columns if column not in row.values]
            if missing:
                raise RowFault(f"has no field {missing[0]!r}, which the first row has")
            messages = format_.to_messages(row.values)
        except RowFault as fault:
            raise DatasetFormatError(f"{path}, row {row.number}: {fault}") from None
        if config.system_prompt:
            system = Message(role="system", content=config.system_prompt, trained=False)
            messages.insert(0, system)
        yield row, format_, messages


def _split(clean: Path, folder: Path, held_out: set[int]) -> tuple[int, int]:
    counts = [0, 0]
    with (
        ParquetRows(folder / "train.parquet", ROWS_SCHEMA) as train,
        ParquetRows(folder / "validation.parquet", ROWS_SCHEMA) as validation,
    ):
        for batch in pq.ParquetFile(clean).iter_batches(1000):
            for row in batch.to_pylist():
                held = row["file"] == VALIDATION or row["row"] in held_out
                counts[held] += 1
                (validation if held else train).add(**row)
    return counts[0], counts[1]


def _digests(path: Path) -> list[tuple[str, str]]:
    """The ending, which decides how a file is read, and the sha256 of each file of a dataset."""
    return [("".join(file.suffixes), digest_file(file)) for file in find_files(path)]


def _draw(seed: int, messages: list[Message]) -> float:
    """A row's lot, between 0 and 1. It depends on the row's own content alone."""
    return int(digest_json([seed, messages])[:16], 16) / 2**64


def _held_out(draws: dict[int, float], ratio: float) -> set[int]:
    """The rows whose lot is below the ratio, at least one and not all.

    Where rows are added, all others stay where they are: what a model has learned from never
    becomes what a later one is measured on, nor the other way round.
    """
    if len(draws) < 2:
        return set(draws)
    by_lot = sorted(draws, key=draws.__getitem__)
    count = sum(lot < ratio for lot in draws.values())
    return set(by_lot[: min(max(count, 1), len(draws) - 1)])
