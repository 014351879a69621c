"""Writes the example task: a customer's request in, one line for the order system out.

Deterministic from the seed, and no order is in both files.
"""

import argparse
import json
import random
from pathlib import Path

from orders import Order, draw_order, write_request

HERE = Path(__file__).parent


def format_order(order: Order) -> str:
    """Writes an order as the order system reads it: lower-case item and day, count in digits."""
    day = "any" if order.day is None else order.day[:3].lower()
    return (
        f"item: {order.item}; count: {order.count}; "
        f"to: {order.name}; town: {order.town}; day: {day}"
    )


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Makes ``count`` rows of ``prompt`` and ``completion``, each of another order."""
    rng = random.Random(seed)
    orders: dict[Order, None] = {}
    while len(orders) < count:
        orders[draw_order(rng)] = None
    return [
        {"prompt": write_request(order, rng), "completion": format_order(order)} for order in orders
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Reads the flags and writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "data", help="folder to write to")
    parser.add_argument("--train", type=int, default=1200, help="rows in train.jsonl")
    parser.add_argument("--validation", type=int, default=160, help="rows in validation.jsonl")
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()

    rows = make_rows(args.train + args.validation, args.seed)
    write_rows(args.output / "train.jsonl", rows[: args.train])
    write_rows(args.output / "validation.jsonl", rows[args.train :])
    print(f"{args.train} training and {args.validation} validation rows in {args.output}")


if __name__ == "__main__":
    main()
