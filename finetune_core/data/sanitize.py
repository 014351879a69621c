"""Sanitize: any file → clean rows in one form, held-out rows apart, and a ledger of every row.

Rows stream through; of those gone by, only digests, signatures and lots are held.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_core.config.sections import DatasetConfig
from finetune_core.data.formats import Format, Message, RowFault, find_format, system
from finetune_core.data.ledger import LEDGER_SCHEMA, ROWS_SCHEMA, ParquetRows
from finetune_core.data.loading import SourceRow, find_files, read_rows
from finetune_core.data.rules import make_leaks, make_rules
from finetune_core.data.rules.label_imbalance import LabelImbalance
from finetune_core.data.rules.personal_data import redact_all
from finetune_core.data.rules.unicode import repair_row
from finetune_core.data.rules.verdict import Rule, Verdict
from finetune_core.exceptions import DatasetFormatError, EmptyDatasetError
from finetune_core.storage import digest_file, digest_json, once
from finetune_core.types import CleanData

VERSION = 3  # raise it when the same input gives other rows than before

TRAINING, VALIDATION = "training", "validation"


def sanitize(config: DatasetConfig, cache: Path) -> CleanData:
    """Reads the dataset, mends and drops rows as the rules say, and holds rows out for validation.

    The folder's name is the digest of the input's bytes and of this config section, so equal
    input is sanitized once.

    Args:
        config: The dataset section.
        cache: The folder that holds sanitized data, one folder a digest.

    Raises:
        DatasetError: The file is not there, cannot be read, or has no usable row.
    """
    files = {TRAINING: Path(config.path)}
    if config.validation_path:  # comes first: training rows are compared with it
        files = {VALIDATION: Path(config.validation_path), **files}
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
    outcomes: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    draws: dict[int, float] = {}
    format_name = ""
    leaks = make_leaks(config.sanitize) if VALIDATION in files else {}
    labels = LabelImbalance(config.sanitize.label_imbalance)
    redact = redact_all(config.sanitize)
    clean = folder / "clean.parquet"
    with (
        ParquetRows(clean, ROWS_SCHEMA) as rows,
        ParquetRows(folder / "ledger.parquet", LEDGER_SCHEMA) as ledger,
    ):
        for file, path in files.items():
            rules = make_rules(config.sanitize)
            for name, leak in leaks.items():
                rules[name] = leak.check if file == TRAINING else leak.remember
            limit = config.max_samples if file == TRAINING else None
            for row, format_, messages, tools in _conversations(path, config, limit):
                judged = _judge(rules, row.number, messages)
                format_name = format_
                outcomes[judged.outcome] += 1
                ledger.add(
                    file=file,
                    row=row.number,
                    outcome=judged.outcome,
                    rule=", ".join(judged.verdicts) or None,
                    detail="; ".join(each.detail for each in judged.verdicts.values()) or None,
                    original=None if judged.outcome == "kept" else _original(row, redact),
                )
                if judged.outcome == "dropped":
                    dropped[list(judged.verdicts)[-1]] += 1
                    continue
                flagged.update(n for n, each in judged.verdicts.items() if each.action == "flag")
                messages = judged.messages
                if config.system_prompt:
                    messages = [system(config.system_prompt), *messages]
                if file == TRAINING:
                    draws[row.number] = _draw(config.seed, messages)
                    labels.add(messages)
                rows.add(file=file, row=row.number, messages=messages, tools=tools)
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
        rows=outcomes.total(),
        kept=outcomes["kept"],
        changed=outcomes["changed"],
        dropped=outcomes["dropped"],
        dropped_by_rule=dict(dropped),
        flagged_by_rule=dict(flagged),
        warnings=labels.warnings(),
        train_rows=train_rows,
        validation_rows=validation_rows,
    )


class _Judgement(NamedTuple):
    """What the rules make of a row; `messages` are what it goes on as, unless it is dropped."""

    outcome: Literal["kept", "changed", "dropped"]
    verdicts: dict[str, Verdict]
    messages: list[Message]


def _judge(rules: Mapping[str, Rule], number: int, messages: list[Message]) -> _Judgement:
    outcome: Literal["kept", "changed"] = "kept"
    verdicts: dict[str, Verdict] = {}
    for name, rule in rules.items():
        verdict = rule(number, messages)
        if verdict is None:
            continue
        verdicts[name] = verdict
        if verdict.action == "drop":
            return _Judgement("dropped", verdicts, messages)
        if verdict.messages is not None:
            outcome, messages = "changed", verdict.messages
    return _Judgement(outcome, verdicts, messages)


def _original(row: SourceRow, redact: Callable[[Any], Any]) -> str:
    """The row as JSON, with what is personal redacted."""
    # Broken text can hide it from the search: then the repaired row stands for the broken one.
    repaired = repair_row(row.values)
    redacted = redact(repaired)
    return json.dumps(redact(row.values) if redacted == repaired else redacted, default=str)


class _Conversation(NamedTuple):
    """A row in the one form."""

    row: SourceRow
    format: str
    messages: list[Message]
    tools: str | None


def _conversations(path: Path, config: DatasetConfig, limit: int | None) -> Iterator[_Conversation]:
    """Each row of a file with its messages, in the format that the first row's columns show."""
    format_: Format | None = None
    for row in read_rows(path, limit, config.max_unpacked_mb * 2**20):
        if format_ is None:
            format_ = find_format(row.values, config.input_field, config.output_field)
        try:
            missing = [column for column in format_.columns if column not in row.values]
            if missing:
                raise RowFault(f"has no field {missing[0]!r}, which the first row has")
            messages, tools = format_.to_messages(row.values), format_.tools(row.values)
        except RowFault as fault:
            raise DatasetFormatError(f"{path}, row {row.number}: {fault}") from None
        if config.sanitize.unicode != "change":
            _check_encodable(path, row.number, messages)
        yield _Conversation(row, format_.name, messages, tools)


def _check_encodable(path: Path, number: int, messages: list[Message]) -> None:
    try:
        for message in messages:
            message["content"].encode()
    except UnicodeEncodeError:
        raise DatasetFormatError(
            f"{path}, row {number}: has half a character (a lone surrogate)",
            hint="dataset.sanitize.unicode: change puts U+FFFD in its place.",
        ) from None


def _split(clean: Path, folder: Path, held_out: set[int]) -> tuple[int, int]:
    counts = [0, 0]
    with (
        pq.ParquetWriter(folder / "train.parquet", ROWS_SCHEMA) as train,
        pq.ParquetWriter(folder / "validation.parquet", ROWS_SCHEMA) as validation,
    ):
        for batch in pq.ParquetFile(clean).iter_batches(1000):
            places = zip(batch["file"].to_pylist(), batch["row"].to_pylist(), strict=True)
            held = [file == VALIDATION or row in held_out for file, row in places]
            for part, writer in enumerate((train, validation)):
                rows = batch.filter(pa.array([each == part for each in held]))
                counts[part] += rows.num_rows
                if rows.num_rows:
                    writer.write_batch(rows)
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
