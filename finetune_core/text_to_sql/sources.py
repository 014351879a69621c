"""Source: a database as questions see it: its schema, and itself where it can be asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy

from finetune_core.config.sql import DatabaseConfig, SqlConfig
from finetune_core.text_to_sql.database import Database
from finetune_core.text_to_sql.schema import Schema, described, read_metadata, scan

UNKNOWN_DIALECT = "sqlite"  # of a schema that is only described


class Source:
    """A schema, and the database that it is of.

    Args:
        schema: What is known of it.
        database: Itself; none where only metadata is there.
    """

    def __init__(self, schema: Schema, database: Database | None) -> None:
        self.schema = schema
        self.database = database

    @property
    def name(self) -> str:
        """What questions call it."""
        return self.schema.name

    def holds(self, table: str) -> bool:
        """Whether it can be asked for such a table."""
        return self.database is not None and table in (each.name for each in self.schema.tables)

    def read_table(self, name: str, limit: int | None) -> Iterator[dict[str, Any]]:
        """The rows of one of its tables, column → value."""
        assert self.database is not None  # noqa: S101 - it holds the table
        with self.database.engine.connect() as connection:
            table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
            for row in connection.execute(sqlalchemy.select(table).limit(limit)):
                yield dict(row._mapping)

    def without(self, names: Collection[str]) -> Source:
        """The same without some tables."""
        tables = [each for each in self.schema.tables if each.name not in names]
        return Source(self.schema.model_copy(update={"tables": tables}), self.database)


@contextmanager
def open_sources(config: SqlConfig) -> Iterator[Sequence[Source]]:
    """Opens the databases of a config and reads their schemas.

    Raises:
        InvalidConfigError: A database's file is not there.
        DatabaseError: A database cannot be read.
        DatasetError: A metadata file is not there, or is something else.
    """
    with ExitStack() as stack:
        yield [_open(each, config, stack) for each in config.databases]


def open_databases(config: SqlConfig, stack: ExitStack) -> dict[str, Database]:
    """Opens the databases of a config, by their names; raises as `open_sources`."""
    return {
        each.title: stack.enter_context(
            Database(each, seconds=config.seconds, max_rows=config.max_rows)
        )
        for each in config.databases
        if each.url
    }


def _open(config: DatabaseConfig, sql: SqlConfig, stack: ExitStack) -> Source:
    told = read_metadata(Path(config.metadata)) if config.metadata else None
    if config.url is None:
        assert told is not None  # noqa: S101 - one of the two is there
        tables, notes = told
        dialect = sql.dialect or UNKNOWN_DIALECT
        schema = Schema(name=config.title, dialect=dialect, tables=tables, notes=notes)
        return Source(schema, None)
    database = stack.enter_context(Database(config, seconds=sql.seconds, max_rows=sql.max_rows))
    schema = scan(database, sql)
    return Source(described(schema, *told) if told else schema, database)
