"""What is read of a database, and how prompts show it."""

from __future__ import annotations

import json

import pytest

from finetune_core.config.sql import SqlConfig
from finetune_core.exceptions import DatabaseError, DatasetFormatError
from finetune_core.text_to_sql.schema import Column, Table, described, read_metadata, scan
from finetune_core.text_to_sql.serializers import SERIALIZERS, choose


def tables(shop, **config):
    with shop.open() as database:
        schema = scan(database, SqlConfig(**config))
    return {table.name: table for table in schema.tables}


def column(table: Table, name: str) -> Column:
    return next(each for each in table.columns if each.name == name)


def test_tables_keys_and_references_are_found(shop):
    found = tables(shop)
    assert list(found) == ["customers", "orders", "warehouses"]
    orders = found["orders"]
    assert [each.name for each in orders.columns] == [
        *("id", "item", "price", "paid", "day", "customer")
    ]
    assert column(orders, "id").primary_key
    assert column(orders, "customer").references == "customers.name"
    assert column(orders, "price").type == "NUMERIC(8, 2)"
    assert not found["warehouses"].rows


def test_what_postgres_says_of_tables_and_columns_is_found(postgres_shop):
    orders = tables(postgres_shop)["orders"]
    assert orders.description == "What was sold"
    assert column(orders, "item").description == "In the singular"


def test_kinds_are_listed_and_names_are_not(shop):
    found = tables(shop)
    assert column(found["orders"], "item").values == ["chair", "lamp"]
    assert column(found["customers"], "town").values == ["Porto", "Turin"]
    assert column(found["customers"], "name").values == []  # each stands there once
    assert column(found["orders"], "price").values == []


def test_more_kinds_than_asked_for_are_not_listed(shop):
    assert column(tables(shop, categories=1)["orders"], "item").values == []


def test_so_many_rows_are_shown_as_are_asked_for(shop):
    assert len(tables(shop, sample_rows=2)["orders"].rows) == 2
    assert tables(shop, sample_rows=0)["orders"].rows == []


def test_personal_data_is_masked_unless_that_is_not_wanted(shop):
    masked = tables(shop)["customers"].rows
    assert ["Anna", "[EMAIL]", "Turin"] in masked
    plain = tables(shop, mask_personal_data=False)["customers"].rows
    assert ["Anna", "anna@example.com", "Turin"] in plain


def test_a_database_without_tables_is_said_to_be_empty(tmp_path):
    import sqlite3

    from tests.finetune_core.text_to_sql.conftest import Shop

    file = tmp_path / "empty.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("DROP TABLE t")
    empty = Shop(None, f"sqlite:///{file}")
    with empty.open() as database, pytest.raises(DatabaseError, match="no tables"):
        scan(database, SqlConfig())


def test_a_metadata_file_describes_a_database(sqlite, tmp_path):
    file = tmp_path / "shop.json"
    told = {
        "table_metadata": {
            "Orders": [
                {"column_name": "ITEM", "data_type": "text", "column_description": "what was sold"}
            ]
        },
        "glossary": "A sale is an order.",
    }
    file.write_text(json.dumps(told))
    with sqlite.open() as database:
        schema = described(scan(database, SqlConfig()), *read_metadata(file))
    orders = next(each for each in schema.tables if each.name == "orders")
    assert column(orders, "item").description == "what was sold"
    assert schema.notes == "A sale is an order."


@pytest.mark.parametrize("text", ["[1]", '{"tables": {}}', '{"table_metadata": {"t": [{}]}}', "x"])
def test_a_file_that_is_something_else_is_named(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(DatasetFormatError, match=r"other\.json"):
        read_metadata(file)


ORDERS = Table(
    name="orders",
    description="What was sold",
    columns=[
        Column(name="id", type="INTEGER", primary_key=True),
        Column(name="item", type="TEXT", description="in the singular", values=["chair", "lamp"]),
        Column(name="customer", type="TEXT", references="customers.name"),
    ],
    rows=[["1", "lamp", "Anna"]],
)


def test_create_table():
    assert SERIALIZERS["create_table"].table(ORDERS) == (
        "-- What was sold\n"
        "CREATE TABLE orders (\n"
        "  id INTEGER,\n"
        "  item TEXT,  -- in the singular; one of: chair, lamp\n"
        "  customer TEXT,\n"
        "  PRIMARY KEY (id),\n"
        "  FOREIGN KEY (customer) REFERENCES customers (name)\n"
        ");\n"
        "-- rows:\n"
        "-- 1, lamp, Anna"
    )


def test_compact():
    assert SERIALIZERS["compact"].table(ORDERS) == (
        "orders(id* integer, item text [chair|lamp], customer text -> customers.name)"
    )


def test_markdown():
    assert SERIALIZERS["markdown"].table(ORDERS) == (
        "## orders\n\n"
        "What was sold\n\n"
        "| column | type | key | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| id | INTEGER | primary |  |\n"
        "| item | TEXT |  | in the singular; one of: chair, lamp |\n"
        "| customer | TEXT | customers.name |  |\n\n"
        "| id | item | customer |\n"
        "| --- | --- | --- |\n"
        "| 1 | lamp | Anna |"
    )


def test_a_create_table_is_one_that_a_database_takes(sqlite):
    with sqlite.open() as database:
        schema = scan(database, SqlConfig())
    import sqlite3

    with sqlite3.connect(":memory:") as other:
        for table in schema.tables:
            other.execute(SERIALIZERS["create_table"].table(table))
        made = {name for (name,) in other.execute("SELECT name FROM sqlite_master")}
    assert {"customers", "orders", "warehouses"} <= made


@pytest.mark.parametrize(
    ("wanted", "family", "tokens", "chosen"),
    [
        ("auto", "llama", 8192, "create_table"),
        ("auto", "gpt", 16385, "create_table"),
        ("auto", "t5", 8192, "compact"),
        ("auto", "llama", 1024, "compact"),
        ("markdown", "t5", 512, "markdown"),
    ],
)
def test_the_family_and_the_room_choose_unless_somebody_does(wanted, family, tokens, chosen):
    assert choose(wanted, family, tokens).name == chosen
