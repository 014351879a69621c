"""Tokenize: clean rows → token ids and labels, as Arrow files that are mapped, not loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune_core.child import Emit
from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import ModelConfig, TokenizationConfig
from finetune_core.data.encode import (
    TOKENS_SCHEMA,
    Recipe,
    Revision,
    encode,
    load_tokenizer,
    template_name,
)
from finetune_core.data.ledger import COMMA, LEDGER_SCHEMA, OUTCOMES, SIGNS, Counts
from finetune_core.data.pairs import find_labels
from finetune_core.data.report import make_report
from finetune_core.exceptions import EmptyDatasetError
from finetune_core.models.source import digest_tokenizer, find_model
from finetune_core.models.tasks import find_tokenization
from finetune_core.parallel import in_order
from finetune_core.storage import digest_json, once, write_json
from finetune_core.types import CleanData, Record, Task, TokenizedData, TokenizedSplit

VERSION = 4  # raise it when the same rows give other tokens than before
BATCH = 1000
WEIGHT = 5  # tokenizing a byte takes so many times as long as sanitizing it

Revisions = dict[tuple[str, int], Revision]


class TokenizeRequest(Record):
    """What tokenizing needs: clean rows, a tokenizer and how to use it."""

    clean: CleanData
    tokenizer: Path
    task: Task = Task.CAUSAL
    tokenization: TokenizationConfig
    sanitize: SanitizeConfig
    cache: Path

    @classmethod
    def for_model(
        cls, model: ModelConfig, tokenization: TokenizationConfig, **fields: Any
    ) -> TokenizeRequest:
        """The request that fits a model.

        Args:
            model: Has the tokenizer and the task, and perhaps places for only so many tokens.
            tokenization: What is asked of all models.
            fields: The others.

        Raises:
            InputError: There is no such model, or its task has no place for what is asked.
        """
        task, fitted = find_tokenization(tokenization, model)
        return cls(tokenizer=find_model(model), task=task, tokenization=fitted, **fields)

    @cached_property
    def tokenizer_digest(self) -> str:
        """The sha256 over the tokenizer's files."""
        return digest_tokenizer(self.tokenizer)

    @property
    def folder(self) -> Path:
        """The folder of the result, named by the digests of all that goes into it."""
        return self.cache / digest_json(
            {
                "data": self.clean.digest,
                "tokenizer": self.tokenizer_digest,
                "config": self.tokenization.model_dump(mode="json"),
                "version": VERSION,
                # A causal model's rows keep the name that they have always had.
                **({} if self.task is Task.CAUSAL else {"task": self.task.value}),
            }
        )


def tokenize(request: TokenizeRequest, emit: Emit) -> TokenizedData:
    """Tokenizes all splits, unless that was done before.

    Raises:
        ModelLoadError: The tokenizer does not load.
        TemplateError: The trained tokens cannot be told from the chat template.
        DatasetFormatError: The answers are no labels, for a model that chooses one.
        EmptyDatasetError: No row fits into the length limit.
    """
    final = request.folder
    return once(final, TokenizedData, lambda folder: _write(request, final.name, emit, folder))


def _write(request: TokenizeRequest, key: str, emit: Emit, folder: Path) -> TokenizedData:
    source, clean = request.tokenizer, request.clean
    labels = find_labels(clean.train) if request.task is Task.CLASSIFICATION else ()
    recipe = Recipe(
        source, request.tokenizer_digest, request.tokenization, request.task, tuple(labels)
    )
    revisions: dict[str, Revisions] = {}
    splits: dict[str, TokenizedSplit] = {}
    done = 0
    total = clean.train_rows + clean.validation_rows + clean.evaluation_rows

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        emit({"type": "progress", "done": done, "total": total})

    for name in ("train", "validation", "evaluation"):
        rows = getattr(clean, f"{name}_rows")
        if name == "evaluation" and not rows:
            continue
        splits[name], revisions[name] = _write_split(request, recipe, name, folder, progress)
        if not splits[name].rows:
            raise EmptyDatasetError(
                f"none of the {rows:,} {name} rows can be used: {_first(revisions[name])}",
                hint="For rows that are too long, see tokenization.max_length and too_long.",
            )
    known = {place: each for found in revisions.values() for place, each in found.items()}
    counts = _write_ledger(clean, folder / "ledger.parquet", known)
    tokenizer = load_tokenizer(source)  # now that no other process holds one any more
    tokens = TokenizedData(
        folder=folder,
        digest=key,
        tokenizer_digest=request.tokenizer_digest,
        template=template_name(tokenizer, request.tokenization, request.task),
        task=request.task,
        labels=list(labels),
        train_split=splits["train"],
        validation_split=splits["validation"],
        evaluation_split=splits.get("evaluation"),
        **counts.fields(),
    )
    report = make_report(clean, tokens, tokenizer, request.tokenization.max_length)
    write_json(tokens.report, report.model_dump(mode="json"))
    return tokens


def _write_split(
    request: TokenizeRequest,
    recipe: Recipe,
    name: str,
    folder: Path,
    progress: Callable[[int], None],
) -> tuple[TokenizedSplit, Revisions]:
    file: Path = getattr(request.clean, name)
    parquet = pq.ParquetFile(file)
    revisions: Revisions = {}
    rows = tokens = trained = longest = too_long = 0
    work = partial(encode, recipe, request.sanitize)
    with pa.ipc.new_stream(str(folder / f"{name}.arrow"), TOKENS_SCHEMA) as writer:
        batches = parquet.iter_batches(BATCH)
        for encoded in in_order(work, batches, WEIGHT * _size(parquet)):
            writer.write_batch(encoded.tokens)
            rows += encoded.tokens.num_rows
            trained += encoded.trained
            lengths = encoded.tokens["length"]
            tokens += pc.sum(lengths).as_py() or 0
            longest = max(longest, pc.max(lengths).as_py() or 0)
            for revision in encoded.revisions:
                revisions[revision.file, revision.row] = revision
                too_long += revision.finding[:2] == ("too_long", "drop")
            progress(encoded.rows)
    split = TokenizedSplit(
        rows=rows, tokens=tokens, trained_tokens=trained, longest=longest, too_long=too_long
    )
    return split, revisions


def _size(parquet: pq.ParquetFile) -> int:
    """The bytes of a file's rows, unpacked."""
    groups = range(parquet.num_row_groups)
    return sum(parquet.metadata.row_group(group).total_byte_size for group in groups)


def _write_ledger(clean: CleanData, target: Path, revisions: Revisions) -> Counts:
    """Writes the ledger of sanitizing with what tokenizing changed, and counts all rows."""
    counts = Counts()
    with pq.ParquetWriter(target, LEDGER_SCHEMA) as writer:
        for batch in pq.ParquetFile(clean.ledger).iter_batches(BATCH):
            columns = batch.to_pydict()
            for place, key in enumerate(zip(columns["file"], columns["row"], strict=True)):
                if revision := revisions.get(key):
                    _revise(columns, place, revision)
                rules, actions = columns["rule"][place], columns["action"][place]
                counts.add(
                    columns["outcome"][place],
                    rules.split(COMMA) if rules else [],
                    actions.split(COMMA) if actions else [],
                )
            writer.write_batch(pa.RecordBatch.from_pydict(columns, LEDGER_SCHEMA))
    return counts


def _revise(columns: dict[str, list[Any]], place: int, revision: Revision) -> None:
    for name, sign in SIGNS.items():
        known, new = columns[name][place], getattr(revision.finding, name)
        columns[name][place] = f"{known}{sign}{new}" if known else new
    columns["outcome"][place] = OUTCOMES[revision.finding.action]
    columns["original"][place] = columns["original"][place] or revision.original


def _first(revisions: Revisions) -> str:
    first = next(iter(revisions.values()))
    return f"row {first.row} of the {first.file} file: {first.finding.detail}"
