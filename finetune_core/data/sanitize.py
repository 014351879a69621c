"""Sanitize: any file → clean rows in one form, held-out rows apart, and a ledger of every row.

Rows stream through, block by block and in several processes where there are many; of those gone
by, only digests, sketches and lots are held.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finetune_core.child import Emit
from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import DatasetConfig
from finetune_core.data.examine import Examined, examine, original
from finetune_core.data.formats import find_format
from finetune_core.data.ledger import DROPPED, KEPT, LEDGER_SCHEMA, Counts, Finding, joined
from finetune_core.data.loading import Block, read_blocks
from finetune_core.data.rows import ROWS_SCHEMA
from finetune_core.data.rules import make_comparisons
from finetune_core.data.rules.label_imbalance import LabelImbalance
from finetune_core.data.rules.leak import Leak
from finetune_core.data.rules.near import NearRows, NearVerdicts
from finetune_core.data.rules.verdict import Comparison
from finetune_core.data.source import EVALUATION, TRAINING, VALIDATION, find_sources
from finetune_core.exceptions import EmptyDatasetError, NoTextColumnsError
from finetune_core.parallel import in_order
from finetune_core.storage import digest_file, digest_json, once
from finetune_core.types import CleanData, Record

VERSION = 5  # raise it when the same input gives other rows than before

SPLITS = ("train", VALIDATION, EVALUATION)

FINDINGS_TYPE = pa.list_(pa.struct([(name, pa.string()) for name in Finding._fields]))
JUDGED_SCHEMA = pa.schema(
    [
        *ROWS_SCHEMA,
        pa.field("outcome", pa.string()),
        pa.field("findings", FINDINGS_TYPE),
        pa.field("original", pa.string()),
    ]
)


def compare_rows(
    comparisons: dict[str, Comparison], block: Block, examined: Examined, rules: SanitizeConfig
) -> list[int]:
    """Compares the rows of a block with those before; gives the places of those left."""
    left = []
    for place, fingerprint in enumerate(examined.fingerprints):
        if examined.outcomes[place] == DROPPED:
            continue
        for rule, compare in comparisons.items():
            verdict = compare(block.first + place, fingerprint)
            if verdict is None:
                continue
            examined.findings[place].append(Finding(rule, verdict.action, verdict.detail))
            if verdict.action == "drop":
                examined.outcomes[place] = DROPPED
                if examined.originals[place] is None:
                    examined.originals[place] = original(block.row(place).values, rules)
                break
        else:
            left.append(place)
    return left


class SanitizeRequest(Record):
    """What sanitizing needs: the dataset section, and the folder that holds sanitized data."""

    dataset: DatasetConfig
    cache: Path

    @cached_property
    def sources(self) -> dict[str, list[Path]]:
        """The files of each source of rows; a hub is asked for its own once."""
        return find_sources(self.dataset)

    @cached_property
    def digests(self) -> dict[str, list[tuple[str, str]]]:
        """The ending, which decides how a file is read, and the sha256 of each file."""
        return {
            name: [("".join(file.suffixes), digest_file(file)) for file in files]
            for name, files in self.sources.items()
        }

    @property
    def source_digest(self) -> str:
        """The sha256 of the training file, or of the digests of several."""
        training = self.digests[TRAINING]
        return training[0][1] if len(training) == 1 else digest_json(training)

    @property
    def folder(self) -> Path:
        """The folder of the result, named by the digest of all that goes into it."""
        unread = {"path", "validation_path", "evaluation_path"}
        config = self.dataset.model_dump(mode="json", exclude=unread)
        key = {"files": self.digests, "config": config, "version": VERSION}
        return self.cache / digest_json(key)


def sanitize(request: SanitizeRequest, emit: Emit) -> CleanData:
    """Reads the dataset, mends and drops rows as the rules say, and holds rows out.

    Equal input is sanitized once.

    Raises:
        DatasetError: The dataset is not there, cannot be read, or has no usable row.
    """
    return once(request.folder, CleanData, lambda folder: _Sanitizing(request, folder, emit).run())


class _Sanitizing:
    """Two passes: one judges the rows, the other deals out what the first has written.

    For which rows are near to each other, and which are held out, is known only when all have
    been seen.
    """

    def __init__(self, request: SanitizeRequest, folder: Path, emit: Emit) -> None:
        self._request, self._config = request, request.dataset
        self._rules = request.dataset.sanitize
        self._folder = folder
        self._emit = emit
        self._sources = request.sources
        self._counts = Counts()
        self._labels = LabelImbalance(self._rules.label_imbalance)
        self._near = NearRows(self._rules)
        self._leak = Leak(self._rules.leak) if self._rules.leak != "off" else None
        self._format = ""
        self._dropped: dict[str, Counter[str]] = defaultdict(Counter)  # by file and rule
        self._first_dropped: dict[str, tuple[int, str]] = {}  # by file: its row, and why
        # Of the training rows that are left: their numbers, and what decides who is held out.
        self._numbers, self._lots = array("q"), array("d")

    def run(self) -> CleanData:
        judged = self._folder / "judged.arrow"
        with pa.ipc.new_stream(str(judged), JUDGED_SCHEMA) as writer:
            for source in self._sources:
                for batch in self._judge(source):
                    writer.write_batch(batch)
        rows = self._deal(judged)
        judged.unlink()
        self._check_enough(rows)
        return CleanData(
            folder=self._folder,
            source_digest=self._request.source_digest,
            digest=self._request.folder.name,
            format=self._format,
            **{f"{split}_rows": count for split, count in rows.items()},
            warnings=self._labels.warnings(),
            **self._counts.fields(),
        )

    def _check_enough(self, rows: dict[str, int]) -> None:
        """Refuses a source that has too few rows left."""
        split_of = {TRAINING: "train", VALIDATION: "validation", EVALUATION: "evaluation"}
        for source, files in self._sources.items():
            held_out = source != TRAINING or VALIDATION in self._sources
            if rows[split_of[source]] and (held_out or rows["validation"]):
                continue
            file = files[0] if len(files) == 1 else files[0].parent
            left = f"none is left of the {source} file"
            if source == TRAINING:
                left = f"{rows['train']} to learn from, {rows['validation']} held out"
            dropped = ", ".join(f"{n:,} {rule}" for rule, n in self._dropped[source].items())
            if first := self._first_dropped.get(source):
                dropped = f" (dropped: {dropped}; the first is row {first[0]:,}: {first[1]})"
            raise EmptyDatasetError(
                f"{file} has too few usable rows: {left}{dropped}",
                hint="At least one row to learn from and one held out are needed.",
            )

    def _judge(self, source: str) -> Iterator[pa.RecordBatch]:
        """Judges the rows of a source; which are near to which is not known yet."""
        config, files = self._config, self._sources[source]
        limit = config.max_samples if source == TRAINING else None
        blocks = read_blocks(files, limit, config.max_unpacked_mb * 2**20)
        first = next(blocks)
        columns = tuple(first.row(0).values)
        try:
            format_ = find_format(columns, config.input_field, config.output_field, config.format)
        except NoTextColumnsError as error:
            raise NoTextColumnsError(f"{files[0]}: {error.message}", hint=error.hint) from None
        self._format = format_.name
        waiting: deque[Block] = deque()

        def handed_out() -> Iterator[Block]:
            for block in chain([first], blocks):
                waiting.append(block)
                yield block

        comparisons = make_comparisons(self._rules)
        if self._leak:
            leak = self._leak
            comparisons["leak"] = (
                leak.check if source == TRAINING else partial(leak.remember, source)
            )
        size = sum(file.stat().st_size for file in files)
        for examined in in_order(partial(examine, config, columns), handed_out(), size):
            block = waiting.popleft()
            left = compare_rows(comparisons, block, examined, self._rules)
            numbers = [block.first + place for place in left]
            if examined.sketches:
                self._near.add(source, numbers, examined.sketches.take(left))
            if source == TRAINING:
                self._numbers.extend(numbers)
                for place in left:
                    self._lots.append(_lot(config.seed, examined.fingerprints[place].whole))
                    self._labels.add(examined.labels[place])
            self._emit({"type": "progress", "done": block.first + len(block.items) - 1})
            yield _batch(source, block, examined)

    def _deal(self, judged: Path) -> dict[str, int]:
        """Deals the judged rows out to the splits and the ledger; gives the rows of each split."""
        near = self._near.verdicts(TRAINING)
        held_out = self._held_out(near)
        rows = dict.fromkeys(SPLITS, 0)
        with ExitStack() as stack:
            ledger = stack.enter_context(
                pq.ParquetWriter(self._folder / "ledger.parquet", LEDGER_SCHEMA)
            )
            writers = {
                split: stack.enter_context(
                    # Prose hardly repeats, so a dictionary of its values would only cost time.
                    pq.ParquetWriter(
                        self._folder / f"{split}.parquet", ROWS_SCHEMA, use_dictionary=["file"]
                    )
                )
                for split in SPLITS
            }
            for batch in pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(judged)))):
                batch = self._settle(batch, near)
                ledger.write_batch(batch.select(LEDGER_SCHEMA.names))
                left = batch.filter(pc.field("outcome") != DROPPED).select(ROWS_SCHEMA.names)
                for split, part in _split(left, held_out).items():
                    rows[split] += part.num_rows
                    if part.num_rows:
                        writers[split].write_batch(part)
        return rows

    def _settle(self, batch: pa.RecordBatch, near: NearVerdicts) -> pa.RecordBatch:
        """Adds what is said of near rows, counts all, and gives the columns of the ledger."""
        file, numbers = batch["file"][0].as_py(), batch["row"].to_pylist()
        outcomes = batch["outcome"].to_pylist()
        findings = [
            [Finding(**finding) for finding in found] for found in batch["findings"].to_pylist()
        ]
        for place, found in enumerate(findings):
            for rule, verdict in near.get((file, numbers[place]), {}).items():
                found.append(Finding(rule, verdict.action, verdict.detail))
                if verdict.action == "drop":
                    outcomes[place] = DROPPED
            if outcomes[place] == DROPPED:
                self._dropped[file][found[-1].rule] += 1
                self._first_dropped.setdefault(file, (numbers[place], found[-1].detail))
            rules, actions = [each.rule for each in found], [each.action for each in found]
            self._counts.add(outcomes[place], rules, actions)
        kept = pa.array([outcome == KEPT for outcome in outcomes])
        settled = {
            **{name: batch[name] for name in ROWS_SCHEMA.names},
            "outcome": pa.array(outcomes, pa.string()),
            **joined(findings),
            "original": pc.if_else(kept, pa.scalar(None, pa.string()), batch["original"]),
        }
        return pa.RecordBatch.from_pydict(settled)

    def _held_out(self, near: NearVerdicts) -> set[int]:
        """The training rows whose lot is below the ratio, at least one and not all.

        Where rows are added, all others stay where they are: what a model has learned from never
        becomes what a later one is measured on, nor the other way round.
        """
        if VALIDATION in self._sources:
            return set()
        near_dropped = {
            row
            for (file, row), verdicts in near.items()
            if file == TRAINING and any(verdict.action == "drop" for verdict in verdicts.values())
        }
        numbers, lots = np.array(self._numbers, dtype=np.int64), np.array(self._lots)
        left = ~np.isin(numbers, list(near_dropped))
        numbers, lots = numbers[left], lots[left]
        count = int((lots < self._config.validation_ratio).sum())
        count = min(max(count, 1), max(len(lots) - 1, 0))
        return set(numbers[np.argsort(lots, kind="stable")[:count]].tolist())


def _batch(source: str, block: Block, examined: Examined) -> pa.RecordBatch:
    """The judged rows of a block, as `JUDGED_SCHEMA` has them."""
    count = len(block.items)
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(source, count),
            pa.array(np.arange(block.first, block.first + count)),
            *examined.conversations.columns,
            pa.array(examined.outcomes, pa.string()),
            pa.array(
                [[each._asdict() for each in found] for found in examined.findings],
                FINDINGS_TYPE,
            ),
            pa.array(examined.originals, pa.string()),
        ],
        schema=JUDGED_SCHEMA,
    )


def _split(batch: pa.RecordBatch, held_out: set[int]) -> dict[str, pa.RecordBatch]:
    """Deals rows of one file out to the splits."""
    if not batch.num_rows:
        return {}
    file = batch["file"][0].as_py()
    if file != TRAINING:
        return {file: batch}
    held = pa.array([row in held_out for row in batch["row"].to_pylist()])
    return {"train": batch.filter(pc.invert(held)), "validation": batch.filter(held)}


def _lot(seed: int, fingerprint: bytes) -> float:
    """A row's lot, between 0 and 1. It depends on the row's own content alone."""
    digest = blake2b(fingerprint, key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
