"""The dataset: questions with gold SQL → rows of chat, each with the schema that it needs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_core.child import Emit
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import ModelConfig, TokenizationConfig
from finetune_core.data.examine import original
from finetune_core.data.ledger import CHANGED, DROPPED, KEPT, LEDGER_SCHEMA, Counts, Finding, joined
from finetune_core.exceptions import (
    EmptyDatasetError,
    Fault,
    IncompatibleConfigError,
    MissingConfigError,
)
from finetune_core.jobs import model_name
from finetune_core.models.source import find_model
from finetune_core.models.tasks import find_tokenization, read_model_config
from finetune_core.storage import once
from finetune_core.text_to_sql.judging import CountTokens, Judge
from finetune_core.text_to_sql.questions import read_questions, table_of
from finetune_core.text_to_sql.serializers import Serializer, choose
from finetune_core.text_to_sql.sources import Source, open_sources
from finetune_core.types import DatasetFormat, DatasetSource, Ledgered, Record

TRAINING, VALIDATION, EVALUATION = "training", "validation", "evaluation"
SPARE = 16  # tokens that an answer may have beyond the longest gold one


class SqlDataset(Ledgered):
    """The dataset, a file of chat rows for each file of questions, and the ledger of the questions.

    `serializer` wrote the schemas; `longest` is the tokens of the longest row, `longest_answer`
    those of the longest gold query; `executed` says whether the gold SQL was tried.
    """

    serializer: str
    longest: int
    longest_answer: int
    executed: bool
    files: list[str]

    @property
    def train(self) -> Path:
        """The rows to learn from."""
        return rows_file(self.folder, TRAINING)

    @property
    def validation(self) -> Path | None:
        """The rows held out, where a file of them was given."""
        return self._file(VALIDATION)

    @property
    def evaluation(self) -> Path | None:
        """The rows to compare base and tuned model on, where a file of them was given."""
        return self._file(EVALUATION)

    @property
    def golds(self) -> Path:
        """The right queries of the rows that are measured, by their number."""
        return golds_file(self.folder)

    def config(self, config: PipelineConfig) -> PipelineConfig:
        """The config of the job that learns from it.

        Args:
            config: That which the dataset was made by.
        """
        files = {
            "path": str(self.train),
            "validation_path": str(self.validation) if self.validation else None,
            "evaluation_path": str(self.evaluation) if self.evaluation else None,
            "format": DatasetFormat.CHAT,
            "input_field": None,
            "output_field": None,
            "max_samples": None,
        }
        enough = max(config.evaluation.generation_max_length, self.longest_answer + SPARE)
        changed: dict[str, dict[str, Any]] = {
            "dataset": files,
            "sql": {"golds": self.golds, "databases": config.sql.anchored().databases},
            "evaluation": {"generation_max_length": enough},
            "registry": {"model_name": model_name(config)},
        }
        return config.model_copy(
            update={
                section: getattr(config, section).model_copy(update=fields)
                for section, fields in changed.items()
            }
        )

    def _file(self, name: str) -> Path | None:
        return rows_file(self.folder, name) if name in self.files else None


def rows_file(folder: Path, name: str) -> Path:
    """Where the rows of a file of questions lie."""
    return folder / f"{name}.jsonl"


def golds_file(folder: Path) -> Path:
    """Where the right queries lie."""
    return folder / "golds.jsonl"


class BuildRequest(Record):
    """What building needs: the config, whose dataset is the questions; `output` is the folder."""

    config: PipelineConfig
    output: Path


def build(request: BuildRequest, emit: Emit) -> SqlDataset:
    """Builds the dataset for a base model that is here, by whose tokenizer it counts.

    Raises:
        InputError: As `build_dataset`; or there is no such model.
        ModelLoadError: Its tokenizer does not load.
    """
    config = request.config
    _, fitted = find_tokenization(config.tokenization, config.model)
    count = token_counter(config.model, fitted)
    config = config.model_copy(update={"tokenization": fitted})
    return build_dataset(config, count, request.output, emit)


def token_counter(model: ModelConfig, tokenization: TokenizationConfig) -> CountTokens:
    """Counts the tokens of messages as a job tokenizes them; raises as `build`."""
    from finetune_core.data.encode import load_tokenizer, make_encoder
    from finetune_core.data.formats import Conversation, Message

    task, fitted = find_tokenization(tokenization, model)
    endless = fitted.model_copy(update={"max_length": sys.maxsize})
    encoder = make_encoder(load_tokenizer(find_model(model)), endless, task)

    def count(row: Sequence[Mapping[str, str]]) -> int:
        turns = [
            Message(
                role=each["role"],
                content=each["content"],
                trained=each["role"] == "assistant",
                tool_calls=None,
            )
            for each in row
        ]
        ((tokens, _),) = encoder.encode([Conversation(turns)], ["a row"])
        return max(len(part.ids) for part in tokens)

    return count


def build_dataset(
    config: PipelineConfig, count: CountTokens, folder: Path, emit: Emit
) -> SqlDataset:
    """Builds the dataset, unless its folder is there already.

    Args:
        config: The databases, and as `dataset.path` the questions.
        count: Tells the tokens of messages.
        folder: Gets the files.
        emit: Hears of the progress.

    Raises:
        InputError: The questions, or what is known of the databases, cannot be read.
        EmptyDatasetError: No question can be used.
        DatabaseError: A database cannot be read.
    """
    if not config.sql.databases:
        raise MissingConfigError([Fault("sql.databases", "is required: name one or more")])
    if config.dataset.source is not DatasetSource.LOCAL_FILE:
        problem = "must be local_file: questions are a file, or table:NAME of a database"
        raise IncompatibleConfigError([Fault("dataset.source", problem)])
    return once(folder, SqlDataset, lambda temporary: _write(config, count, emit, temporary))


def _write(config: PipelineConfig, count: CountTokens, emit: Emit, folder: Path) -> SqlDataset:
    data = config.dataset
    paths = [
        (TRAINING, data.path),
        (VALIDATION, data.validation_path),
        (EVALUATION, data.evaluation_path),
    ]
    given = {name: path for name, path in paths if path}
    serializer = _serializer(config)
    with open_sources(config.sql) as opened:
        sources = _without_questions(opened, given.values())
        judge = Judge(config, sources, serializer, count)
        writer = _Writer(config, judge, folder, emit)
        with pq.ParquetWriter(folder / "ledger.parquet", LEDGER_SCHEMA) as ledger:
            for name, path in given.items():
                # The last one is measured: where the training file is alone, its held-out rows.
                writer.write(name, path, opened, ledger, measured=name == list(given)[-1])
    return SqlDataset(
        folder=folder,
        serializer=serializer.name,
        longest=writer.longest,
        longest_answer=writer.longest_answer,
        executed=config.sql.executes,
        files=list(given),
        **writer.counts.fields(),
    )


class _Writer:
    """Writes the files of a dataset, and counts what it has written."""

    def __init__(self, config: PipelineConfig, judge: Judge, folder: Path, emit: Emit) -> None:
        self._config, self._judge, self._folder, self._emit = config, judge, folder, emit
        self.counts = Counts()
        self.longest = self.longest_answer = 0

    def write(
        self,
        name: str,
        path: str,
        sources: Sequence[Source],
        ledger: pq.ParquetWriter,
        *,
        measured: bool,
    ) -> None:
        """Writes the rows of one file of questions.

        Args:
            name: Which of the files it is.
            path: The file.
            sources: The databases, with the table that the questions may stand in.
            ledger: Gets an entry for each question.
            measured: Whether the right queries of these rows are needed.
        """
        data = self._config.dataset
        golds: list[dict[str, Any]] = []
        refused: Counter[str] = Counter()
        with rows_file(self._folder, name).open("w") as file:
            limit = data.max_samples if name == TRAINING else None
            for source_row, question in read_questions(path, data, sources, limit):
                usable, findings = self._judge(question)
                changed = any(each.action == "change" for each in findings)
                outcome = DROPPED if usable is None else CHANGED if changed else KEPT
                self.counts.add(
                    outcome,
                    [each.rule for each in findings],
                    [each.action for each in findings],
                )
                values = None if outcome == KEPT else original(source_row.values, data.sanitize)
                ledger.write_batch(_entry(name, source_row.number, outcome, findings, values))
                self._emit({"type": "progress", "done": self.counts.outcomes.total(), "total": 0})
                if usable is None:
                    refused[findings[-1].detail] += 1
                    continue
                self.longest = max(self.longest, usable.tokens)
                self.longest_answer = max(self.longest_answer, usable.answer_tokens)
                _write_line(file, {"messages": usable.row})
                place = {"row": len(golds) + 1, "question": source_row.number}
                golds.append({**place, "database": usable.database, "sql": usable.queries})
        if not golds:
            why = f": {refused.most_common(1)[0][0]}" if refused else ""
            raise EmptyDatasetError(f"none of the {name} questions in {path} can be used{why}")
        if measured:
            with golds_file(self._folder).open("w") as file:
                for gold in golds:
                    _write_line(file, gold)


def _serializer(config: PipelineConfig) -> Serializer:
    """The one that fits the base model."""
    wanted, most = config.sql.serializer, config.tokenization.max_length
    return choose(wanted, model_family(config.model) if wanted == "auto" else "", most)


def model_family(model: ModelConfig) -> str:
    """The family of a base model; one that is a provider's is called as its name begins."""
    if Path(model.name).is_dir():
        return str(read_model_config(model).get("model_type", ""))
    return model.name.rpartition("/")[2].partition("-")[0].lower()


def _without_questions(sources: Iterable[Source], paths: Iterable[str]) -> list[Source]:
    """The databases without the tables of the questions, which would show the answers."""
    tables = [table for path in paths if (table := table_of(path))]
    return [source.without(tables) for source in sources]


def _entry(
    file: str, row: int, outcome: str, findings: Sequence[Finding], values: str | None
) -> pa.RecordBatch:
    columns = {
        "file": pa.array([file]),
        "row": pa.array([row], pa.int64()),
        "outcome": pa.array([outcome]),
        **joined([findings]),
        "original": pa.array([values], pa.string()),
    }
    return pa.RecordBatch.from_arrays(
        [columns[field.name] for field in LEDGER_SCHEMA], schema=LEDGER_SCHEMA
    )


def _write_line(file: TextIO, value: object) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
