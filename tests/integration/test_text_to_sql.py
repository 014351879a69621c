"""The whole way: a database and questions with gold SQL → a model whose SQL is executed."""

from __future__ import annotations

import csv
import json
import os
import random
import sqlite3
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

QUERIES = {
    ("orders", "sales"): "SELECT COUNT(*) FROM orders",
    ("customers", "people"): "SELECT COUNT(*) FROM customers",
    ("towns", "places"): "SELECT DISTINCT town FROM customers ORDER BY town",
    ("items", "goods"): "SELECT DISTINCT item FROM orders",
}
WORDS = ("Show the {}.", "Tell me about the {}.", "What are the {}?", "I want the {}.", "The {}?")
MANNERS = ("", "Please. ", "Hello. ", "Good morning. ", "Thank you. ", "Now: ", "Again: ", "So: ")


def write(folder, rows: list[tuple[str, str]], name: str):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([("question", "query"), *rows])
    return str(folder / name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A database, and questions about it: a third of them is held out, each put otherwise."""
    folder = tmp_path_factory.mktemp("shop")
    with sqlite3.connect(folder / "shop.db") as connection:
        connection.executescript(
            """
            CREATE TABLE customers (name TEXT PRIMARY KEY, town TEXT);
            CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, name TEXT);
            INSERT INTO customers VALUES ('Anna', 'Turin'), ('Boris', 'Porto'), ('Carla', 'Lyon');
            INSERT INTO orders VALUES (1, 'lamp', 'Anna'), (2, 'chair', 'Anna');
            """
        )
    rows = [
        (manner + words.format(noun), query)
        for manner in MANNERS
        for words in WORDS
        for nouns, query in QUERIES.items()
        for noun in nouns
    ]
    random.Random(0).shuffle(rows)
    injected = [("Away with the orders?", "DROP TABLE orders"), *rows[: len(rows) * 2 // 3]]
    config = {
        "model": {"name": "examples/tiny_base"},
        "training": {
            "method": "full_finetuning",
            "epochs": 5,
            "learning_rate": 1e-3,
            "batch_size": 8,
        },
        "registry": {"model_name": "shop"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write(folder, injected, "train.csv")
    write(folder, rows[len(rows) * 2 // 3 :], "held_out.csv")
    return folder


def run(shop, home, *arguments: str):
    """The command, in a process of its own."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "finetune_service.cli", "text-to-sql", *arguments),
            *("--config", str(shop / "config.yaml"), "--questions", str(shop / "train.csv")),
            "--json",
        ],
        cwd=ROOT,
        env={**os.environ, "FINETUNE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_a_database_and_questions_become_a_champion_by_what_its_sql_gives(shop, tmp_path):
    url = f"sqlite:///{shop / 'shop.db'}"
    held_out = ("--validation", str(shop / "held_out.csv"))
    before = (shop / "shop.db").read_bytes()
    done = run(shop, tmp_path, "--database", url, *held_out)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["base_metrics"]["execution_accuracy"] == 0.0
    assert found["metrics"]["execution_accuracy"] > 0.25
    assert found["metrics"]["valid_sql"] > 0.25
    assert "champion" in found["aliases"]
    assert found["dataset"]["dropped_by_rule"] == {"not_select": 1}
    assert (shop / "shop.db").read_bytes() == before

    job = tmp_path / "organizations" / "local" / "jobs" / found["job_id"]
    gate = next(job.glob("gate/*.md")).read_text()
    assert "execution_accuracy is surely better than the base's" in gate
    report = (job / "report" / "report.md").read_text()
    assert "execution_accuracy" in report


def test_only_the_dataset(shop, tmp_path):
    folder = tmp_path / "rows"
    url = f"sqlite:///{shop / 'shop.db'}"
    done = run(shop, tmp_path, "--database", url, "--dataset-only", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["refused"] == [
        {
            "rule": "not_select",
            "questions": 1,
            "first": "row 1 of the training questions: is no SELECT but DROP",
        }
    ]
    assert len((folder / "training.jsonl").read_text().splitlines()) == found["kept"]


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("postgresql://me:hunter2secret@host/shop", "PGPASSWORD"),
        ("sqlite:///nowhere.db", "nowhere.db"),
        ("oracle://me@host/shop", "sqlite and postgresql"),
    ],
)
def test_a_database_that_cannot_be_is_refused_by_one_line_and_leaves_nothing(
    shop, tmp_path, database, said
):
    folder = tmp_path / "rows"
    done = run(shop, tmp_path, "--database", database, "--dataset-only", str(folder))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2secret" not in done.stdout + done.stderr
    assert not folder.exists()
