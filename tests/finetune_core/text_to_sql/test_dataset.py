"""Questions with gold SQL become rows; what cannot is in the ledger, with its reason."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest
import sqlalchemy

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import (
    DatabaseError,
    EmptyDatasetError,
    InvalidConfigError,
    MissingConfigError,
    NoTextColumnsError,
)
from finetune_core.text_to_sql.dataset import BuildRequest, build
from finetune_core.text_to_sql.report import reasons, summary, table
from tests.finetune_core.text_to_sql.conftest import sqlite_shop

GOOD = ("How many orders?", "SELECT COUNT(*) FROM orders")


@pytest.fixture
def make(shop, tmp_path, tiny_base):
    """Builds a dataset of questions about the shop."""

    def make(rows, head=("question", "query"), **sections):
        questions = tmp_path / "questions.csv"
        if not isinstance(rows, str):
            with questions.open("w", newline="") as file:
                csv.writer(file).writerows([head, *rows])
        config = PipelineConfig.parse(
            {
                "model": {"name": str(tiny_base)},
                "dataset": {"path": rows if isinstance(rows, str) else str(questions)},
                **sections,
                "sql": {
                    "databases": [{"url": shop.url, "name": "shop"}],
                    "seconds": 1,
                    **sections.get("sql", {}),
                },
            }
        )
        folder = tmp_path / "built"
        return build(BuildRequest(config=config, output=folder), lambda event: None), config

    return make


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def ledger_of(data):
    return pq.read_table(data.ledger).to_pylist()


def test_a_row_has_the_schema_the_question_and_the_query(make):
    data, _ = make([GOOD])
    (row,) = rows_of(data.train)
    system, user, assistant = row["messages"]
    assert [each["role"] for each in row["messages"]] == ["system", "user", "assistant"]
    assert "orders(" in system["content"]
    assert user["content"] == GOOD[0]
    assert assistant["content"] == GOOD[1]
    assert rows_of(data.golds) == [{"row": 1, "question": 1, "database": "shop", "sql": [GOOD[1]]}]


def test_each_question_that_cannot_be_used_is_in_the_ledger_with_its_reason(make, shop):
    before = shop.contents()
    forever = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    )
    data, _ = make(
        [
            GOOD,
            ("", "SELECT 1"),
            ("Nothing?", ""),
            ("Broken?", "SELECT FROM WHERE"),
            ("Nowhere?", "SELECT x FROM nowhere"),
            ("Away with it?", "DROP TABLE orders"),
            ("And then?", "SELECT 1; DROP TABLE orders"),
            ("Still there?", forever),
            ("Nobody?", "SELECT name FROM customers WHERE town = 'Oslo'"),
        ]
    )
    found = {entry["row"]: entry for entry in ledger_of(data)}
    assert {row: (entry["outcome"], entry["rule"]) for row, entry in found.items()} == {
        1: ("kept", None),
        2: ("dropped", "fields"),
        3: ("dropped", "fields"),
        4: ("dropped", "syntax"),
        5: ("dropped", "fails"),
        6: ("dropped", "not_select"),
        7: ("dropped", "not_select"),
        8: ("dropped", "too_slow"),
        9: ("kept", "no_rows"),
    }
    assert "nowhere" in found[5]["detail"]
    assert "DROP" in found[6]["detail"]
    assert json.loads(found[6]["original"])["query"] == "DROP TABLE orders"
    assert (data.rows, data.kept, data.dropped) == (9, 2, 7)
    assert len(rows_of(data.train)) == 2
    assert shop.contents() == before
    counted = {rule: count for rule, count, _ in reasons(data)}
    assert counted == {"fields": 2, "not_select": 2, "syntax": 1, "fails": 1, "too_slow": 1}
    assert summary(data) == "2 of 9 questions usable"
    assert "row 5 of the training questions" in table(data)


def test_alternatives_that_fail_are_left_out_and_said(make):
    data, _ = make([("Who?", "SELECT name FROM customers; SELECT nobody FROM customers")])
    (gold,) = rows_of(data.golds)
    assert gold["sql"] == ["SELECT name FROM customers"]
    (entry,) = ledger_of(data)
    assert entry["outcome"] == "changed"
    assert entry["rule"] == "fails"
    assert "query 2 of 2" in entry["detail"]


def test_gold_sql_of_another_dialect_is_translated(make, shop):
    data, _ = make(
        [("Whose address?", "SELECT IFNULL(email, 'none') FROM customers")],
        sql={"dialect": "sqlite"},
    )
    answer = rows_of(data.train)[0]["messages"][-1]["content"]
    if shop.url.startswith("postgresql"):
        assert "COALESCE" in answer
    with shop.open() as database:
        assert len(database.query(answer).rows) == 4


def test_instructions_go_into_the_prompt(make):
    data, _ = make([(*GOOD, "Count each once.")], head=("question", "query", "instructions"))
    assert "Count each once." in rows_of(data.train)[0]["messages"][0]["content"]


def test_a_question_of_a_database_that_was_not_given_says_so(make):
    data, _ = make([(*GOOD, "shop"), (*GOOD, "bank")], head=("question", "query", "db_name"))
    assert [entry["outcome"] for entry in ledger_of(data)] == ["kept", "dropped"]
    assert "bank" in ledger_of(data)[1]["detail"]


def test_a_schema_without_room_is_cut_but_for_what_the_query_needs(make):
    data, _ = make(
        [("Where are the lamps kept?", "SELECT city FROM warehouses")], sql={"schema_tokens": 40}
    )
    (entry,) = ledger_of(data)
    assert (entry["outcome"], entry["rule"]) == ("kept", "no_rows, schema_cut")
    prompt = rows_of(data.train)[0]["messages"][0]["content"]
    assert "warehouses(" in prompt
    assert "orders(" not in prompt
    assert "orders" in entry["detail"]


def test_a_question_that_cannot_fit_is_named_by_its_number(make):
    data, _ = make([("Where?", "SELECT city FROM warehouses"), GOOD], sql={"schema_tokens": 40})
    dropped = ledger_of(data)[1]
    assert (dropped["outcome"], dropped["rule"]) == ("dropped", "too_long")
    assert "question 2 does not fit" in dropped["detail"]


def test_rows_are_as_long_as_the_job_may_take(make):
    from finetune_core.config.sections import ModelConfig, TokenizationConfig
    from finetune_core.text_to_sql.dataset import token_counter

    data, config = make(
        [("Where?", "SELECT city FROM warehouses")], tokenization={"max_length": 150}
    )
    count = token_counter(ModelConfig(name=config.model.name), TokenizationConfig())
    assert count(rows_of(data.train)[0]["messages"]) == data.longest <= 150


def test_the_questions_may_stand_in_a_table_which_no_prompt_shows(make, shop):
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE golden (question TEXT, sql TEXT)")
        connection.execute(
            sqlalchemy.text("INSERT INTO golden VALUES (:question, :sql)"),
            {"question": GOOD[0], "sql": GOOD[1]},
        )
    try:
        data, _ = make("table:golden")
        assert [row["messages"][-1]["content"] for row in rows_of(data.train)] == [GOOD[1]]
        assert "golden" not in rows_of(data.train)[0]["messages"][0]["content"]
    finally:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE golden")


def test_a_table_that_is_not_there_is_named(make):
    with pytest.raises(InvalidConfigError, match="no database has a table silver"):
        make("table:silver")


def test_columns_that_nobody_knows_are_listed(make):
    with pytest.raises(NoTextColumnsError, match="found what, how"):
        make([GOOD], head=("what", "how"))


def test_no_usable_question_is_an_error_and_leaves_nothing(make, tmp_path):
    with pytest.raises(EmptyDatasetError, match="DROP"):
        make([("Away?", "DROP TABLE orders")])
    assert not (tmp_path / "built").exists()


def test_without_a_database_there_is_nothing_to_do(tmp_path, tiny_base):
    config = PipelineConfig.parse({"dataset": {"path": "q.csv"}, "model": {"name": str(tiny_base)}})
    with pytest.raises(MissingConfigError, match=r"sql\.databases"):
        build(BuildRequest(config=config, output=tmp_path / "built"), lambda event: None)


def test_metadata_alone_makes_rows_that_were_not_tried(tmp_path, tiny_base):
    metadata = tmp_path / "shop.json"
    columns = [{"column_name": "city", "data_type": "text", "column_description": "where it is"}]
    metadata.write_text(json.dumps({"table_metadata": {"warehouses": columns}}))
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "Where?", "query": "SELECT city FROM warehouses"}))
    config = PipelineConfig.parse(
        {
            "model": {"name": str(tiny_base)},
            "dataset": {"path": str(questions)},
            "sql": {"databases": [{"metadata": str(metadata)}], "serializer": "create_table"},
        }
    )
    data = build(BuildRequest(config=config, output=tmp_path / "built"), lambda event: None)
    assert not data.executed
    assert "where it is" in rows_of(data.train)[0]["messages"][0]["content"]


def test_the_job_learns_from_what_was_built(make):
    data, config = make([GOOD])
    job = data.config(config)
    assert job.dataset.path == str(data.train)
    assert job.sql.golds == data.golds
    assert job.registry.model_name == "tiny_base-questions"
    assert PipelineConfig.parse(job.model_dump(mode="json")) == job


def test_the_job_finds_the_database_from_everywhere(tmp_path, tiny_base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sqlite_shop(tmp_path)
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": GOOD[0], "query": GOOD[1]}))
    config = PipelineConfig.parse(
        {
            "model": {"name": str(tiny_base)},
            "dataset": {"path": "q.jsonl"},
            "sql": {"databases": [{"url": "sqlite:///shop.db"}]},
        }
    )
    data = build(BuildRequest(config=config, output=tmp_path / "built"), lambda event: None)
    (database,) = data.config(config).sql.databases
    assert database.url == f"sqlite:///{tmp_path / 'shop.db'}"
    assert database.title == "shop"


def test_a_database_that_is_away_is_an_error_that_a_retry_may_mend(make, monkeypatch, shop):
    if shop.url.startswith("sqlite"):
        pytest.skip("a file is not away")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(DatabaseError) as error:
        make([GOOD])
    assert error.value.exit_code == 1
