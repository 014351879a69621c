"""How many of public questions can be used, and why others cannot: on PostgreSQL and on SQLite.

`python -m benchmarks.text_to_sql --data FOLDER` reads defog-ai's data (Apache-2.0):
`databases/*.sql`, PostgreSQL's dumps, with `*.json`, what their columns mean, and
`sql_questions.csv`, questions with gold SQL of SQLite's dialect. Each dump is loaded into a real
PostgreSQL, and copied from there into a SQLite file.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import sqlalchemy
from sqlalchemy.engine import URL, Engine

from finetune_core.config import PipelineConfig
from finetune_core.evaluation.report import table
from finetune_core.text_to_sql.dataset import BuildRequest, SqlDataset, build
from tests.postgres import new_database, postgres, without_password


def load(dump: Path, server: URL) -> URL:
    """Loads a dump into a new database, and gives its URL."""
    url = new_database(server, dump.stem)
    engine = sqlalchemy.create_engine(url)
    connection = engine.raw_connection()
    with connection.cursor() as cursor:
        cursor.execute(dump.read_text())
    connection.commit()
    connection.close()
    engine.dispose()
    return url


def copy(source: Engine, target: Engine) -> int:
    """Copies the tables of a database with their rows, and gives how many rows there were."""
    tables = sqlalchemy.MetaData()
    tables.reflect(source)
    for each in tables.tables.values():
        for column in each.columns:
            column.server_default = None  # PostgreSQL's own words
    tables.create_all(target)
    rows = 0
    with source.connect() as reader, target.begin() as writer:
        for each in tables.sorted_tables:
            found = [dict(row._mapping) for row in reader.execute(each.select())]
            rows += len(found)
            if found:
                writer.execute(each.insert(), found)
    return rows


def make(databases: dict[str, str], data: Path, output: Path, model: str) -> SqlDataset:
    """Makes the dataset of all databases."""
    config = PipelineConfig.parse(
        {
            "model": {"name": model},
            "dataset": {"path": str(data / "sql_questions.csv")},
            "tokenization": {"max_length": 2047},
            "sql": {
                "databases": [
                    {"url": url, "name": name, "metadata": str(data / f"databases/{name}.json")}
                    for name, url in databases.items()
                ],
                "dialect": "sqlite",
            },
        }
    )
    return build(BuildRequest(config=config, output=output), lambda event: None)


def main() -> None:
    """Reads the flags and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="defog-ai's files")
    parser.add_argument("--model", default="examples/tiny_base", help="whose tokens are counted")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary, postgres() as server:
        folder, urls = Path(temporary), {"PostgreSQL": {}, "SQLite": {}}
        for dump in sorted((args.data / "databases").glob("*.sql")):
            url = load(dump, server)
            source = sqlalchemy.create_engine(url)
            file = f"sqlite:///{folder / dump.stem}.db"
            target = sqlalchemy.create_engine(file)
            print(f"{dump.stem}: {copy(source, target)} rows")
            source.dispose()
            target.dispose()
            urls["PostgreSQL"][dump.stem] = without_password(url)
            urls["SQLite"][dump.stem] = file
        for kind, databases in urls.items():
            data = make(databases, args.data, folder / kind, args.model)
            show(kind, data, args.data / "sql_questions.csv")


def show(kind: str, data: SqlDataset, questions: Path) -> None:
    """Prints what became of the questions, by database and by rule."""
    with questions.open(newline="") as file:
        names = [row["db_name"] for row in csv.DictReader(file)]
    entries = pq.read_table(data.ledger).to_pylist()
    usable = Counter(names[entry["row"] - 1] for entry in entries if entry["outcome"] != "dropped")
    print(
        f"\n{kind}: {data.kept + data.changed} of {data.rows} usable, "
        f"schemas as {data.serializer}, longest row {data.longest} tokens\n"
    )
    print(
        "\n".join(
            table(
                ["database", "questions", "usable"],
                [(name, str(many), str(usable[name])) for name, many in Counter(names).items()],
            )
        )
    )
    print()
    for entry in entries:
        if entry["rule"]:
            print(
                f"- question {entry['row']} ({names[entry['row'] - 1]}): {entry['outcome']}, "
                f"{entry['rule']}: {entry['detail']}"
            )


if __name__ == "__main__":
    main()
