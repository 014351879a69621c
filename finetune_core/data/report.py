"""What there is to say of a dataset before a GPU is spent on it."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_core.data.masks import IGNORED
from finetune_core.data.pairs import answer_text
from finetune_core.types import CleanData, Record, Task, TokenizedData

SHOWN_ROWS = 5
DROPPED_SHARE = 0.1  # of the rows, above which somebody should look at the ledger
BINS = 20


class Piece(Record):
    """A run of tokens as text, and whether it is trained."""

    text: str
    trained: bool


class Lengths(Record):
    """The tokens of the rows: their distribution, and a histogram of equal bins up to `longest`."""

    total: int
    trained: int
    median: int
    p90: int
    p99: int
    longest: int
    too_long: int
    limit: int
    histogram: list[int]


class DataReport(Record):
    """What was found. `verdict` is good, or doubtful for the reasons given."""

    rows: int
    kept: int
    changed: int
    dropped: int
    formats: list[str]
    rules: dict[str, dict[str, int]]
    train_rows: int
    validation_rows: int
    evaluation_rows: int
    tokens: Lengths
    template: str
    samples: list[list[Piece]]
    verdict: str
    reasons: list[str]


def make_report(clean: CleanData, tokens: TokenizedData, tokenizer: Any, limit: int) -> DataReport:
    """Puts together what sanitizing and tokenizing have counted.

    Args:
        clean: The clean rows.
        tokens: What they became.
        tokenizer: Turns tokens into text again.
        limit: The tokens that a row may have.
    """
    rules = {
        "dropped": tokens.dropped_by_rule,
        "changed": tokens.changed_by_rule,
        "flagged": tokens.flagged_by_rule,
    }
    reasons = [f"{n:,} rows flagged by {rule}" for rule, n in tokens.flagged_by_rule.items()]
    reasons += clean.warnings
    if tokens.dropped > DROPPED_SHARE * tokens.rows:
        most = ", ".join(f"{n:,} by {rule}" for rule, n in tokens.dropped_by_rule.items())
        reasons.append(f"{tokens.dropped:,} of {tokens.rows:,} rows dropped ({most})")
    return DataReport(
        rows=tokens.rows,
        kept=tokens.kept,
        changed=tokens.changed,
        dropped=tokens.dropped,
        formats=[clean.format],
        rules={
            rule: {action: counts.get(rule, 0) for action, counts in rules.items()}
            for rule in sorted({rule for counts in rules.values() for rule in counts})
        },
        train_rows=tokens.train_split.rows,
        validation_rows=tokens.validation_split.rows,
        evaluation_rows=tokens.evaluation_split.rows if tokens.evaluation_split else 0,
        tokens=_lengths(tokens, limit),
        template=tokens.template,
        samples=_samples(tokens, tokenizer),
        verdict="doubtful" if reasons else "good",
        reasons=reasons,
    )


def read_report(path: Path) -> DataReport:
    """Reads a report that tokenizing has written."""
    return DataReport.model_validate(json.loads(path.read_text()))


def _lengths(tokens: TokenizedData, limit: int) -> Lengths:
    splits = (tokens.train_split, tokens.validation_split)
    lengths = np.concatenate(
        [_table(path)["length"].to_numpy() for path in (tokens.train, tokens.validation)]
    )
    middle, p90, p99 = np.percentile(lengths, [50, 90, 99], method="nearest")
    histogram, _ = np.histogram(lengths, bins=BINS, range=(0, lengths.max()))
    return Lengths(
        total=int(lengths.sum()),
        trained=sum(split.trained_tokens for split in splits),
        median=int(middle),
        p90=int(p90),
        p99=int(p99),
        longest=int(lengths.max()),
        too_long=sum(split.too_long for split in splits),
        limit=limit,
        histogram=histogram.tolist(),
    )


def _samples(tokens: TokenizedData, tokenizer: Any) -> list[list[Piece]]:
    """The first rows as the model reads them, cut where training begins and ends."""
    rows = _table(tokens.train).slice(0, SHOWN_ROWS).to_pylist()
    if tokens.task is not Task.CAUSAL:
        return [
            [
                Piece(text=f"{tokenizer.decode(row['input_ids'])} → ", trained=False),
                Piece(text=answer_text(tokenizer, row["labels"], tokens.labels), trained=True),
            ]
            for row in rows
        ]
    return [
        [
            Piece(text=tokenizer.decode([token for token, _ in run]), trained=trained)
            for trained, run in groupby(
                zip(row["input_ids"], row["labels"], strict=True),
                key=lambda pair: pair[1] != IGNORED,
            )
        ]
        for row in rows
    ]


def _table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()
