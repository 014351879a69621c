"""What a person reads of a dataset: how many questions can be used, and why others cannot."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq

from finetune_core.data.ledger import COMMA, DROPPED
from finetune_core.evaluation import report
from finetune_core.text_to_sql.dataset import SqlDataset

WORDS = {
    "fields": "no question, or no SQL",
    "database": "of no database that was given",
    "syntax": "the SQL does not parse",
    "not_select": "the SQL does more than read",
    "fails": "the database refuses the SQL",
    "too_slow": "the SQL takes too long",
    "too_many_rows": "the SQL gives too many rows",
    "too_long": "the tables that it needs have no room",
}


def summary(data: SqlDataset) -> str:
    """A line."""
    tried = "" if data.executed else ", gold SQL not executed"
    return f"{data.kept + data.changed:,} of {data.rows:,} questions usable{tried}"


def reasons(data: SqlDataset) -> list[tuple[str, int, str]]:
    """Why questions were refused: the rule, how many, and what is wrong with the first."""
    ledger = pq.read_table(data.ledger, columns=["outcome", "rule", "file", "row", "detail"])
    count: Counter[str] = Counter()
    first: dict[str, str] = {}
    for row in ledger.to_pylist():
        if row["outcome"] == DROPPED:
            rule = row["rule"].rpartition(COMMA)[2]
            count[rule] += 1
            detail = row["detail"].rpartition("; ")[2]
            first.setdefault(rule, f"row {row['row']} of the {row['file']} questions: {detail}")
    return [(rule, number, first[rule]) for rule, number in count.most_common()]


def table(data: SqlDataset) -> str:
    """Markdown."""
    rows = [
        (WORDS.get(rule, rule), f"{number:,}", example) for rule, number, example in reasons(data)
    ]
    lines = [summary(data), ""]
    if rows:
        lines += report.table(["refused", "questions", "the first"], rows)
    return "\n".join([*lines, ""])
