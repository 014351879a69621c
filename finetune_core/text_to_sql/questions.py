"""Questions with their gold SQL: from a file, or from a table of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_core.config.sections import DatasetConfig
from finetune_core.data.formats import RowFault, listing, text
from finetune_core.data.loading import SourceRow, read_rows
from finetune_core.exceptions import Fault, InvalidConfigError, NoTextColumnsError

if TYPE_CHECKING:  # which takes a fifth of a second, and commands ask here for `table_of`
    from finetune_core.text_to_sql.sources import Source

TABLE = "table:"  # before the name of a table that the questions are read from
QUESTIONS = ("question", "prompt", "input", "text")
QUERIES = ("query", "sql", "gold_sql", "gold", "answer", "output")
DATABASES = ("db_name", "db_id", "database")
INSTRUCTIONS = ("instructions", "evidence", "hint")


class Columns(NamedTuple):
    """The columns of a question file; a question may do without the last two."""

    question: str
    query: str
    database: str | None
    instructions: str | None


class GoldenQuestion(NamedTuple):
    """A question, the field with its gold SQL, and the database that it is of.

    Attributes:
        number: Its row in the file, counted from 1.
        instructions: What else is to be kept to.
    """

    number: int
    question: str
    query: str
    database: str | None
    instructions: str


def read_questions(
    path: str, config: DatasetConfig, databases: Sequence[Source], limit: int | None = None
) -> Iterator[tuple[SourceRow, GoldenQuestion | RowFault]]:
    """The rows of a file or a table, each with the question in it, or what is wrong with it.

    Args:
        path: A file as datasets are read from, or `table:NAME`.
        config: Names the columns, where they are not called as usual.
        databases: Of which one holds the table.
        limit: Read only so many.

    Raises:
        DatasetError: The file is not there, or cannot be read.
        InvalidConfigError: There is no such table, or no such column.
    """
    columns: Columns | None = None
    for row in _rows(path, databases, limit):
        if columns is None:
            columns = find_columns(list(row.values), config)
        yield row, _read(row, columns)


def find_columns(names: Sequence[str], config: DatasetConfig) -> Columns:
    """Which column holds what.

    Raises:
        NoTextColumnsError: None holds questions, or none holds SQL.
    """
    asked = [config.input_field] if config.input_field else QUESTIONS
    queried = [config.output_field] if config.output_field else QUERIES
    question, query = _first(asked, names), _first(queried, names)
    if question is None or query is None:
        what = "questions" if question is None else "gold SQL"
        wanted = asked if question is None else queried
        raise NoTextColumnsError(
            f"no column holds {what}: looked for {', '.join(wanted)}, found {listing(names)}",
            hint="Name the columns by --input-field and --output-field.",
        )
    return Columns(question, query, _first(DATABASES, names), _first(INSTRUCTIONS, names))


def table_of(path: str) -> str | None:
    """The table that a path names, in place of a file."""
    return path[len(TABLE) :] if path.startswith(TABLE) else None


def _rows(path: str, databases: Sequence[Source], limit: int | None) -> Iterator[SourceRow]:
    name = table_of(path)
    if name is None:
        yield from read_rows(Path(path), limit)
        return
    holding = [each for each in databases if each.holds(name)]
    if len(holding) != 1:
        found = "several databases have" if holding else "no database has"
        raise InvalidConfigError([Fault("dataset.path", f"{found} a table {name}")])
    for number, values in enumerate(holding[0].read_table(name, limit), 1):
        yield SourceRow(number, values)


def _read(row: SourceRow, columns: Columns) -> GoldenQuestion | RowFault:
    values: dict[str, Any] = row.values

    def field(name: str | None) -> str:
        return text(values, name).strip() if name and values.get(name) is not None else ""

    try:
        question, query = field(columns.question), field(columns.query)
        for name, given in ((columns.question, question), (columns.query, query)):
            if not given:
                raise RowFault(f"has nothing in {name!r}")
        return GoldenQuestion(
            row.number,
            question,
            query,
            field(columns.database) or None,
            field(columns.instructions),
        )
    except RowFault as fault:
        return fault


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((each for each in wanted if each in names), None)
