"""A database that is only read: nothing that is sent to it changes it, or keeps it busy."""

from __future__ import annotations

import time

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.config.sql import DatabaseConfig
from finetune_core.exceptions import ConfigError, DatabaseError, InvalidConfigError
from finetune_core.text_to_sql.database import Database
from finetune_core.text_to_sql.statements import RefusedQuery

COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n{end}) SELECT {what} FROM n"


def test_rows_come_as_they_are(shop):
    with shop.open() as database:
        result = database.query("SELECT item, paid FROM orders WHERE customer = 'Anna' ORDER BY id")
    assert [(item, bool(paid)) for item, paid in result.rows] == [("lamp", True), ("chair", True)]
    assert result.ordered


def test_signs_that_drivers_take_for_places_are_text(shop):
    with shop.open() as database:
        found = database.query(
            "SELECT name FROM customers WHERE email LIKE 'a%:x%' OR name LIKE 'A%'"
        )
    assert found.rows == [("Anna",)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE orders",
        "SELECT 1; DROP TABLE orders",
        "DELETE FROM orders",
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
        "SELECT setval('x', 1)",
        "INSERT INTO orders (id) VALUES (99)",
    ],
)
def test_what_would_change_it_changes_nothing(shop, sql):
    before = shop.contents()
    with shop.open() as database, pytest.raises(RefusedQuery):
        database.query(sql)
    assert shop.contents() == before


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE orders",
        "DELETE FROM orders",
        "CREATE TABLE more (a INTEGER)",
        "UPDATE orders SET item = 'x'",
    ],
)
def test_the_connection_itself_refuses_what_the_parser_would_let_through(shop, sql):
    """The second wall, tried without the first."""
    before = shop.contents()
    with shop.open() as database, pytest.raises(RefusedQuery):
        database._execute(sql)
    assert shop.contents() == before


def test_sqlite_reads_no_other_file(sqlite, tmp_path):
    with sqlite.open() as database, pytest.raises(RefusedQuery):
        database._execute(f"ATTACH DATABASE '{tmp_path / 'new.db'}' AS other")
    assert not (tmp_path / "new.db").exists()


def test_postgres_stays_read_only_whatever_a_query_sets(postgres_shop):
    before = postgres_shop.contents()
    with postgres_shop.open() as database:
        for sql in (
            "SELECT set_config('default_transaction_read_only', 'off', false)",
            "SELECT set_config('statement_timeout', '0', false)",
        ):
            database._execute(sql)
            with pytest.raises(RefusedQuery):
                database._execute("DELETE FROM orders")
    assert postgres_shop.contents() == before


def test_a_query_that_never_ends_is_ended(shop):
    with shop.open(seconds=0.5) as database:
        start = time.monotonic()
        with pytest.raises(RefusedQuery, match=r"more than 0\.5 s") as refused:
            database.query(COUNT.format(end="", what="count(*)"))
        assert refused.value.rule == "too_slow"
        assert time.monotonic() - start < 10
        assert database.query("SELECT count(*) FROM orders").rows == [(4,)]  # it goes on


def test_rows_without_end_are_not_taken_in(shop):
    with shop.open(max_rows=100) as database, pytest.raises(RefusedQuery) as refused:
        database.query(COUNT.format(end=" WHERE i < 100000", what="i"))
    assert refused.value.rule == "too_many_rows"


def test_an_error_of_the_database_is_one_line(shop):
    with shop.open() as database, pytest.raises(RefusedQuery, match="nowhere") as refused:
        database.query("SELECT a FROM nowhere")
    assert refused.value.rule == "fails"
    assert "\n" not in str(refused.value)


def test_a_dialect_that_nobody_knows_is_refused():
    values = {"dataset": {"path": "q.csv"}, "sql": {"dialect": "postgress"}}
    with pytest.raises(ConfigError, match=r"sql\.dialect.*postgress"):
        PipelineConfig.parse(values)
    values["sql"]["dialect"] = "PostgreSQL"
    assert PipelineConfig.parse(values).sql.dialect == "postgres"


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    file = tmp_path / "none.db"
    with pytest.raises(InvalidConfigError, match=r"none\.db"):
        Database(DatabaseConfig(url=f"sqlite:///{file}"), seconds=1, max_rows=1)
    assert not file.exists()


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    file = tmp_path / "text.db"
    file.write_text("these are words, and many of them " * 100)
    with pytest.raises(DatabaseError, match="not a database"):
        Database(DatabaseConfig(url=f"sqlite:///{file}"), seconds=1, max_rows=1)


def test_a_server_that_is_not_there_is_named_and_no_password_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2secret")
    config = DatabaseConfig(url=f"postgresql://someone@/shop?host={tmp_path}")
    with pytest.raises(DatabaseError) as error:
        Database(config, seconds=1, max_rows=1)
    assert "shop" in str(error.value)
    assert "hunter2secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:hunter2secret@host/shop", "PGPASSWORD"),
        ("postgresql://me@host/shop?password=hunter2secret", "PGPASSWORD"),
        ("mysql://me@host/shop", "sqlite and postgresql"),
        ("sqlite://", "file"),
        ("hunter2secret", "URL"),
    ],
)
def test_a_url_that_cannot_be_is_refused_and_a_password_in_it_not_shown(url, said):
    values = {"dataset": {"path": "q.csv"}, "sql": {"databases": [{"url": url}]}}
    with pytest.raises(ConfigError, match=said) as error:
        PipelineConfig.parse(values)
    assert "hunter2secret" not in str(error.value)
    assert "hunter2secret" not in repr(error.value.__dict__)
