"""Database: queries executed so that nothing can be written, with limits of time and rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from finetune_core.config.sql import DatabaseConfig
from finetune_core.exceptions import DatabaseError, Fault, InvalidConfigError
from finetune_core.text_to_sql.statements import (
    RefusedQuery,
    is_ordered,
    parse_select,
    write,
)

STEPS = 10_000  # of SQLite's machine between two looks at the clock
LONGEST_VALUE = 10_000_000  # bytes that a value of a SQLite query may have
LONGEST_MESSAGE = 300  # characters that are told of what a database says
CONNECT_SECONDS = 10
DIALECTS = {"sqlite": "sqlite", "postgresql": "postgres"}  # SQLAlchemy's name → sqlglot's
BLOCK = 1000  # rows that are fetched at once
# What SQLite asks leave for, and a query that only reads needs.
ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}

Row = tuple[Any, ...]


class Result(NamedTuple):
    """What a query gives: its rows, in order, and whether that order was asked for."""

    rows: list[Row]
    ordered: bool


class Database(AbstractContextManager["Database"]):
    """A database that is only read.

    Three things keep it as it is: nothing but a SELECT is sent (`parse_select`), it is sent as
    sqlglot writes it anew, and the connection is read-only: SQLite's file is opened so, and an
    authorizer refuses all but reading; PostgreSQL gets a READ ONLY transaction for each query.

    Args:
        config: Names it.
        seconds: That a query may take.
        max_rows: That a query may give.

    Raises:
        InvalidConfigError: There is no such file.
        DatabaseError: It does not let us in.
    """

    def __init__(self, config: DatabaseConfig, *, seconds: float, max_rows: int) -> None:
        assert config.url is not None  # noqa: S101 - the caller has seen to it
        self.name = config.title
        self._url = make_url(config.url)
        self._seconds, self._max_rows = seconds, max_rows
        self.dialect = DIALECTS[self._url.get_backend_name()]
        self.engine = self._open()
        self._asking = self._open(asking=True)
        self._check()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self.engine.dispose()
        self._asking.dispose()

    def query(self, sql: str) -> Result:
        """Executes a query.

        Args:
            sql: One SELECT, in the database's own dialect.

        Raises:
            DatabaseError: It is gone.
            RefusedQuery: It is something else, of which the database has seen nothing; or the
                database refuses it, or it goes beyond a limit.
        """
        tree = parse_select(sql, self.dialect)
        return Result(self._execute(write(tree, self.dialect)), is_ordered(tree))

    def _execute(self, sql: str) -> list[Row]:
        deadline = time.monotonic() + self._seconds
        with self._timed(deadline) as connection:
            rows: list[Row] = []
            found = connection.exec_driver_sql(sql)
            while block := found.fetchmany(BLOCK):
                rows += map(tuple, block)
                if len(rows) > self._max_rows:
                    raise RefusedQuery("too_many_rows", f"gives more than {self._max_rows:,} rows")
                if time.monotonic() > deadline:
                    raise self._slow()
            return rows

    @contextmanager
    def _timed(self, deadline: float) -> Iterator[Connection]:
        """A connection that answers before a moment, or not at all."""
        try:
            with self._asking.connect() as connection:
                raw: Any = connection.connection.driver_connection
                if isinstance(raw, sqlite3.Connection):
                    raw.set_authorizer(_authorize)  # not before: SQLAlchemy has looked around
                    raw.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
                else:
                    with raw.cursor() as cursor:
                        limit = int(self._seconds * 1000)
                        cursor.execute(f"SET LOCAL statement_timeout = {limit}")
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated:  # not the query's fault
                raise self.unreadable(error) from None
            message = _said(error)
            if "interrupted" in message or "statement timeout" in message:
                raise self._slow() from None
            raise RefusedQuery("fails", message) from None
        except (SQLAlchemyError, sqlite3.Error, ValueError, OverflowError) as error:
            raise RefusedQuery("fails", _said(error)) from None

    def _slow(self) -> RefusedQuery:
        return RefusedQuery("too_slow", f"takes more than {self._seconds:g} s")

    def _open(self, *, asking: bool = False) -> Engine:
        """Opens it: to be asked, under all limits, or for its schema to be looked at."""
        if self._url.get_backend_name() == "sqlite":
            file = Path(str(self._url.database)).expanduser()
            if not file.is_file():
                raise InvalidConfigError([Fault("sql.databases", f"there is no file {file}")])
            return sqlalchemy.create_engine(
                "sqlite://",
                creator=lambda: _open_sqlite(file, asking),
                poolclass=sqlalchemy.pool.StaticPool,
            )
        engine = sqlalchemy.create_engine(
            self._url,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )
        limits: dict[str, Any] = {"postgresql_readonly": True, "no_parameters": True}
        if asking:  # through a cursor of the server's, which takes nothing but a query
            limits |= {"stream_results": True, "max_row_buffer": BLOCK}
        return engine.execution_options(**limits)

    def _check(self) -> None:
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
                if self._url.get_backend_name() == "sqlite":
                    connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self.unreadable(error) from None

    def unreadable(self, error: Exception) -> DatabaseError:
        """The error that says why it cannot be read."""
        return DatabaseError(
            f"the database {self.name} cannot be read: {_said(error)}",
            hint="A password is read from PGPASSWORD, or from ~/.pgpass."
            if self._url.get_backend_name() == "postgresql"
            else None,
        )


def _said(error: Exception) -> str:
    """What the database says is wrong, without the place in a statement that is not the user's."""
    orig = getattr(error, "orig", None) or error
    primary = getattr(getattr(orig, "diag", None), "message_primary", None)
    return " ".join(str(primary or orig).split())[:LONGEST_MESSAGE]


def _open_sqlite(file: Path, asking: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(file.absolute()))}?mode=ro", uri=True, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    # Text that is not UTF-8 stands in old files.
    connection.text_factory = lambda data: data.decode(errors="replace")
    if asking and hasattr(connection, "setlimit"):  # from Python 3.11 on
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    return connection


def _authorize(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY
