"""Check: what training on a dataset would see, found out before a GPU is spent."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_core.child import Emit
from finetune_core.config.sections import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.masks import IGNORED
from finetune_core.data.sanitize import sanitize
from finetune_core.data.tokenize import TokenizeRequest, load_tokenizer, tokenize
from finetune_core.models.source import find_model
from finetune_core.types import Record, TokenizedData

SHOWN_ROWS = 5
DROPPED_SHARE = 0.1  # of the rows, above which somebody should look at the ledger
LONG_SHARE = 0.05
BINS = 20


class CheckRequest(Record):
    """What a check is asked."""

    dataset: DatasetConfig
    model: ModelConfig
    tokenization: TokenizationConfig
    cache: Path


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


class CheckReport(Record):
    """What a check found. `verdict` is good, or doubtful for the reasons given."""

    rows: int
    kept: int
    changed: int
    dropped: int
    formats: list[str]
    rules: dict[str, dict[str, int]]
    train_rows: int
    validation_rows: int
    tokens: Lengths
    template: str
    samples: list[list[Piece]]
    ledger: Path
    verdict: str
    reasons: list[str]


def check(request: CheckRequest, emit: Emit) -> CheckReport:
    """Sanitizes and tokenizes a dataset as a job would, and says what came of it.

    Raises:
        InputError: The dataset cannot teach this model at all.
    """
    clean = sanitize(request.dataset, request.cache / "data")
    tokens = tokenize(
        TokenizeRequest(
            clean=clean,
            model=request.model,
            tokenization=request.tokenization,
            cache=request.cache / "tokens",
        ),
        emit,
    )
    lengths = _lengths(tokens, request.tokenization.max_length)
    rules = {"dropped": clean.dropped_by_rule, "flagged": clean.flagged_by_rule}
    reasons = [
        f"{count:,} rows flagged by {rule}"
        for rule, count in clean.flagged_by_rule.items()
        if count
    ]
    reasons += clean.warnings
    if clean.dropped > DROPPED_SHARE * clean.rows:
        reasons.append(f"{clean.dropped:,} of {clean.rows:,} rows dropped")
    if lengths.too_long > LONG_SHARE * clean.rows:
        reasons.append(f"{lengths.too_long:,} rows longer than {lengths.limit:,} tokens, left out")
    return CheckReport(
        rows=clean.rows,
        kept=clean.kept,
        changed=clean.changed,
        dropped=clean.dropped,
        formats=[clean.format],
        rules={
            rule: {action: counts.get(rule, 0) for action, counts in rules.items()}
            for rule in sorted({rule for counts in rules.values() for rule in counts})
        },
        train_rows=tokens.train_split.rows,
        validation_rows=tokens.validation_split.rows,
        tokens=lengths,
        template=tokens.template,
        samples=_samples(tokens, load_tokenizer(find_model(request.model))),
        ledger=clean.ledger,
        verdict="doubtful" if reasons else "good",
        reasons=reasons,
    )


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
        too_long=sum(len(split.too_long) for split in splits),
        limit=limit,
        histogram=histogram.tolist(),
    )


def _samples(tokens: TokenizedData, tokenizer: Any) -> list[list[Piece]]:
    """The first rows as the model reads them, cut where training begins and ends."""
    rows = _table(tokens.train).slice(0, SHOWN_ROWS).to_pylist()
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
