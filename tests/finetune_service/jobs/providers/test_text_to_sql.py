"""Datasets of questions and a database, built by the tokens of the base model."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from finetune_service.jobs.providers import PROVIDERS, open_provider
from tests.conftest import ROOT


@pytest.fixture
def storage(make, tmp_path, request):
    database = tmp_path / "shop.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, city TEXT)")
        connection.execute("INSERT INTO orders (city) VALUES ('Berlin'), ('Rome')")
    questions = tmp_path / "questions.jsonl"
    cities = ("Berlin", "Rome", "Paris", "Oslo")
    asked = [
        {
            "question": f"How many orders come from {city}?",
            "query": f"SELECT COUNT(*) FROM orders WHERE city = '{city}'",
        }
        for city in cities
    ]
    questions.write_text("".join(json.dumps(each) + "\n" for each in asked))
    config = {
        "dataset": {"path": str(questions), "validation_path": str(questions)},
        "sql": {"databases": [{"url": f"sqlite:///{database}"}]},
    }
    tokenizer = str(ROOT / "examples/tiny_base")
    return make(request.param, config, tokenizer=tokenizer)


@pytest.mark.parametrize("storage", [*PROVIDERS], indirect=True)
def test_it_is_built_once(storage):
    model = open_provider(storage)
    built = model.create_finetuning_dataset()
    assert built.train.is_relative_to(storage.dataset)
    rows = [json.loads(line)["messages"] for line in built.train.open()]
    assert [each["role"] for each in rows[0]] == ["system", "user", "assistant"]
    assert rows[1][2]["content"] == "SELECT COUNT(*) FROM orders WHERE city = 'Rome'"
    assert "How many orders come from Oslo?" in rows[3][1]["content"]
    assert len(rows) == 4
    assert built.config.dataset.path == str(built.train)
    before = built.train.stat().st_mtime_ns
    assert model.create_finetuning_dataset() == built
    assert built.train.stat().st_mtime_ns == before


@pytest.mark.parametrize("storage", ["openai"], indirect=True)
def test_it_is_what_is_uploaded(storage, server):
    made = open_provider(storage).create_fine_tuning_job()
    training, held_out = server.files
    assert (training["id"], held_out["id"]) == (made.file_id, made.validation_file_id)
    assert training["bytes"] == (storage.dataset / "training.jsonl").stat().st_size
