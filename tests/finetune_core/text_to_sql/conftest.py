"""A small shop in SQLite and, where there is one, in a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy

from finetune_core.config.sql import DatabaseConfig
from finetune_core.text_to_sql.database import Database
from tests.postgres import new_database, postgres, without_password

SCHEMA = """
CREATE TABLE customers (name VARCHAR(40) PRIMARY KEY, email VARCHAR(60), town TEXT);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, item TEXT, price NUMERIC(8, 2), paid BOOLEAN, day DATE,
    customer VARCHAR(40) REFERENCES customers (name)
);
CREATE TABLE warehouses (code TEXT, city TEXT);
INSERT INTO customers VALUES
    ('Anna', 'anna@example.com', 'Turin'), ('Boris', 'boris@example.com', 'Turin'),
    ('Carla', 'carla@example.com', 'Porto'), ('David', NULL, 'Porto');
INSERT INTO orders VALUES
    (1, 'lamp', 10.50, TRUE, '2026-01-02', 'Anna'),
    (2, 'lamp', 12.00, FALSE, '2026-01-03', 'Boris'),
    (3, 'chair', 40.00, TRUE, '2026-01-03', 'Anna'),
    (4, 'chair', 41.00, TRUE, '2026-02-01', 'Carla');
"""


class Shop(NamedTuple):
    """A database with the shop in it: how to connect to change it, and as users name it."""

    engine: sqlalchemy.Engine
    url: str

    def contents(self) -> dict[str, list[tuple]]:
        """All that is in it."""
        inspector = sqlalchemy.inspect(self.engine)
        with self.engine.connect() as connection:
            return {
                name: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")]
                for name in inspector.get_table_names()
            }

    def open(self, seconds: float = 10, max_rows: int = 1000) -> Database:
        """The database under test."""
        return Database(
            DatabaseConfig(url=self.url, name="shop"), seconds=seconds, max_rows=max_rows
        )


def fill(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.exec_driver_sql(statement)


def sqlite_shop(folder: Path) -> Shop:
    url = f"sqlite:///{folder / 'shop.db'}"
    engine = sqlalchemy.create_engine(url)
    fill(engine)
    return Shop(engine, url)


@pytest.fixture(scope="session")
def postgres_server():
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_shop(postgres_server):
    url = new_database(postgres_server, "shop")
    engine = sqlalchemy.create_engine(url)
    fill(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("COMMENT ON TABLE orders IS 'What was sold'")
        connection.exec_driver_sql("COMMENT ON COLUMN orders.item IS 'In the singular'")
    yield Shop(engine, without_password(url))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path):
    """The shop, in each kind of database."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_shop")
    return sqlite_shop(tmp_path)


@pytest.fixture
def sqlite(tmp_path):
    """The shop in SQLite."""
    return sqlite_shop(tmp_path)
