"""A database's schema: scanned from the database, or read from a file, or both together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from pydantic import Field
from sqlalchemy.engine import Connection, Inspector
from sqlalchemy.exc import SQLAlchemyError

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sql import SqlConfig
from finetune_core.data.rules.personal_data import redact_all
from finetune_core.exceptions import DatabaseError, DatasetFormatError, DatasetNotFoundError
from finetune_core.text_to_sql.database import Database
from finetune_core.types import Record

LONGEST_VALUE = 60  # characters of a value that a prompt shows
LONGEST_CATEGORY = 40  # characters of the values of a column that has few of them
ENOUGH_ROWS = 100_000  # of a table, in which its kinds of values are looked for
MASKED = SanitizeConfig.model_validate(
    dict.fromkeys(("secret", "email", "iban", "card", "phone"), "redact")
)
NOT_SHOWN = sqlalchemy.types.LargeBinary


class Column(Record):
    """A column.

    Attributes:
        type: As the database writes it.
        values: All that it holds, where these are few.
        references: `table.column`, where it is a foreign key.
    """

    name: str
    type: str
    description: str = ""
    primary_key: bool = False
    values: list[str] = Field(default_factory=list)
    references: str | None = None


class Table(Record):
    """A table, or a view. `rows` are a few of its own, a value a column."""

    name: str
    description: str = ""
    columns: list[Column]
    rows: list[list[str]] = Field(default_factory=list)


class Schema(Record):
    """What is known of a database. `notes` is what else its metadata says, of how to ask it."""

    name: str
    dialect: str
    tables: list[Table]
    notes: str = ""


def scan(database: Database, config: SqlConfig) -> Schema:
    """Reads the schema of a database, with a few rows and the values of columns that have few.

    Args:
        database: The database.
        config: How much of it is shown, and whether personal data is masked.

    Raises:
        DatabaseError: It cannot be read.
    """
    mask = redact_all(MASKED) if config.mask_personal_data else None
    try:
        with database.engine.connect() as connection:
            inspector = sqlalchemy.inspect(connection)
            names = sorted({*inspector.get_table_names(), *inspector.get_view_names()})
            tables = [_scan_table(connection, inspector, name, config, mask) for name in names]
    except SQLAlchemyError as error:
        raise database.unreadable(error) from None
    if not tables:
        raise DatabaseError(f"the database {database.name} has no tables")
    return Schema(name=database.name, dialect=database.dialect, tables=tables)


def read_metadata(file: Path) -> tuple[list[Table], str]:
    """The tables of a metadata file, and its notes.

    It reads `{"table_metadata": {TABLE: [{column_name, data_type, column_description}]},
    "glossary": TEXT}`, as defog-ai/defog-data (Apache-2.0) writes it.

    Raises:
        DatasetNotFoundError: It is not there.
        DatasetFormatError: It is something else.
    """
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise DatasetNotFoundError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise DatasetFormatError(f"{file} is not JSON ({error})") from None
    try:
        tables = [
            Table(
                name=name,
                columns=[
                    Column(
                        name=column["column_name"],
                        type=column["data_type"],
                        description=column.get("column_description") or "",
                    )
                    for column in columns
                ],
            )
            for name, columns in values["table_metadata"].items()
        ]
        return tables, str(values.get("glossary") or "").strip()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DatasetFormatError(
            f"{file} holds no metadata of tables: {type(error).__name__} {error}",
            hint='It reads {"table_metadata": {TABLE: [{"column_name", "data_type", '
            '"column_description"}]}, "glossary": TEXT}.',
        ) from None


def described(schema: Schema, tables: Iterable[Table], notes: str) -> Schema:
    """A scanned schema with the descriptions of a metadata file."""
    known = {
        (table.name.lower(), column.name.lower()): column.description
        for table in tables
        for column in table.columns
    }

    def describe(table: Table) -> Table:
        columns = [
            column.model_copy(
                update={
                    "description": known.get((table.name.lower(), column.name.lower()))
                    or column.description
                }
            )
            for column in table.columns
        ]
        return table.model_copy(update={"columns": columns})

    return schema.model_copy(
        update={"tables": [describe(table) for table in schema.tables], "notes": notes}
    )


Mask = Callable[[Any], Any]


def _scan_table(
    connection: Connection,
    inspector: Inspector,
    name: str,
    config: SqlConfig,
    mask: Mask | None,
) -> Table:
    keys = set(inspector.get_pk_constraint(name).get("constrained_columns") or ())
    references = {
        column: f"{key['referred_table']}.{referred}"
        for key in inspector.get_foreign_keys(name)
        for column, referred in zip(
            key["constrained_columns"], key["referred_columns"], strict=False
        )
    }
    found = inspector.get_columns(name)
    table = sqlalchemy.table(name, *(sqlalchemy.column(each["name"]) for each in found))
    columns = [
        Column(
            name=each["name"],
            type=_type(each["type"], connection),
            description=each.get("comment") or "",
            primary_key=each["name"] in keys,
            values=list(_categories(connection, table, each, config.categories, mask)),
            references=references.get(each["name"]),
        )
        for each in found
    ]
    rows: list[list[str]] = []
    if config.sample_rows:
        hidden = [isinstance(each["type"], NOT_SHOWN) for each in found]
        for row in connection.execute(sqlalchemy.select(table).limit(config.sample_rows)):
            cells = zip(hidden, row, strict=True)
            rows.append(["…" if hide else _shown(value, mask) for hide, value in cells])
    return Table(name=name, description=_comment(inspector, name), columns=columns, rows=rows)


def _categories(
    connection: Connection, table: Any, column: Any, most: int, mask: Mask | None
) -> Iterator[str]:
    """All values of a column of text that has few of them, and short ones."""
    if not most or not isinstance(column["type"], sqlalchemy.types.String):
        return
    values = sqlalchemy.select(table.c[column["name"]].label("value"))
    some = values.where(table.c[column["name"]].is_not(None)).limit(ENOUGH_ROWS).subquery()
    counted = sqlalchemy.select(some.c.value, sqlalchemy.func.count()).group_by(some.c.value)
    rows = connection.execute(counted.limit(most + 1)).all()
    found = [str(value) for value, _ in rows]
    if len(found) > most or any(len(value) > LONGEST_CATEGORY for value in found):
        return
    if sum(count for _, count in rows) < 2 * len(found):  # mostly once each: names, not kinds
        return
    yield from sorted({_shown(value, mask) for value in found})


def _comment(inspector: Inspector, name: str) -> str:
    try:
        return inspector.get_table_comment(name).get("text") or ""
    except NotImplementedError:  # SQLite has none
        return ""


def _type(kind: Any, connection: Connection) -> str:
    try:
        return str(kind.compile(dialect=connection.dialect))
    except Exception:  # a type of its own, of which SQLAlchemy knows nothing
        return "UNKNOWN"


def _shown(value: object, mask: Mask | None) -> str:
    """A value on one line."""
    text = "NULL" if value is None else " ".join(str(value).split())
    text = mask(text) if mask else text
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
