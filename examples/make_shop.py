"""Writes a shop's database, and questions with gold SQL about it.

Deterministic from the seed, and no question is in both files.
"""

import argparse
import csv
import random
from pathlib import Path

import sqlalchemy
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text
from vocabulary import DAYS, ITEMS, NAMES, TOWNS

METADATA = MetaData()
CUSTOMERS = Table(
    "customers",
    METADATA,
    Column("name", Text, primary_key=True, comment="first name, of which there is one each"),
    Column("town", Text, comment="where the customer lives"),
)
ORDERS = Table(
    "orders",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("item", Text, comment="what was ordered, in the singular"),
    Column("count", Integer, comment="how many"),
    Column("name", Text, ForeignKey("customers.name"), comment="who ordered"),
    Column("day", Text, comment="the day of the delivery"),
)

# How each question may be put, and its query.
QUESTIONS = (
    (
        ("How many orders of {items} are there?", "How often did somebody order {items}?"),
        "SELECT COUNT(*) FROM orders WHERE item = '{item}'",
    ),
    (
        ("How many {items} were ordered?", "What is the number of {items} that we sold?"),
        "SELECT SUM(count) FROM orders WHERE item = '{item}'",
    ),
    (
        ("Which items did {name} order?", "What has {name} ordered?"),
        "SELECT item FROM orders WHERE name = '{name}'",
    ),
    (
        ("Who ordered {items} for {day}?", "Who wants {items} on {day}?"),
        "SELECT name FROM orders WHERE item = '{item}' AND day = '{day}'",
    ),
    (
        ("Which customers live in {town}?", "Who lives in {town}?"),
        "SELECT name FROM customers WHERE town = '{town}'",
    ),
    (
        ("Where does {name} live?", "What is the town of {name}?"),
        "SELECT town FROM customers WHERE name = '{name}'",
    ),
    (
        ("Which {items} go to {town}?", "Show the orders of {items} from {town}."),
        "SELECT orders.id FROM orders JOIN customers ON orders.name = customers.name "
        "WHERE orders.item = '{item}' AND customers.town = '{town}' ORDER BY orders.id",
    ),
    (
        ("How many orders go to {town} on {day}?", "Count the orders for {town} on {day}."),
        "SELECT COUNT(*) FROM orders JOIN customers ON orders.name = customers.name "
        "WHERE customers.town = '{town}' AND orders.day = '{day}'",
    ),
)


def fill_database(engine: sqlalchemy.Engine, orders: int, seed: int) -> None:
    """Makes the tables and fills them."""
    rng = random.Random(seed)
    METADATA.create_all(engine)
    with engine.begin() as connection:
        customers = [{"name": name, "town": rng.choice(TOWNS)} for name in NAMES]
        connection.execute(CUSTOMERS.insert(), customers)
        rows = [
            {
                "id": number,
                "item": rng.choice(list(ITEMS)),
                "count": rng.randint(1, 20),
                "name": rng.choice(NAMES),
                "day": rng.choice(DAYS),
            }
            for number in range(1, orders + 1)
        ]
        connection.execute(ORDERS.insert(), rows)


def make_questions(engine: sqlalchemy.Engine, count: int, seed: int) -> list[dict[str, str]]:
    """Makes ``count`` rows of ``question`` and ``query``, each another question.

    Nothing is asked of which there is nothing: any query without a row would be right.
    """
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        words, query = rng.choice(QUESTIONS)
        item = rng.choice(list(ITEMS))
        values = {
            "item": item,
            "items": ITEMS[item],
            "name": rng.choice(NAMES),
            "town": rng.choice(TOWNS),
            "day": rng.choice(DAYS),
        }
        sql = query.format(**values)
        with engine.connect() as connection:
            row = connection.exec_driver_sql(sql).first()
        if row and row[0]:
            found[rng.choice(words).format(**values)] = sql
    return [{"question": question, "query": query} for question, query in found.items()]


def write_questions(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "query"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Reads the flags and writes the database and the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("shop"), help="folder to write to")
    parser.add_argument("--database", help="URL of an empty database; else a SQLite file is made")
    parser.add_argument("--orders", type=int, default=2000, help="rows of the table orders")
    parser.add_argument("--train", type=int, default=1600, help="rows in train.csv")
    parser.add_argument("--validation", type=int, default=100, help="rows in validation.csv")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    url = args.database or f"sqlite:///{args.output / 'shop.db'}"
    engine = sqlalchemy.create_engine(url)
    fill_database(engine, args.orders, args.seed)
    rows = make_questions(engine, args.train + args.validation, args.seed)
    write_questions(args.output / "train.csv", rows[: args.train])
    write_questions(args.output / "validation.csv", rows[args.train :])
    print(f"{args.train} training and {args.validation} validation questions in {args.output}")


if __name__ == "__main__":
    main()
