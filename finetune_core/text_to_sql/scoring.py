"""How good generated SQL is: executed beside the gold SQL, and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from finetune_core.config.sql import SqlConfig
from finetune_core.evaluation.intervals import Statistic, mean
from finetune_core.exceptions import EvaluationError
from finetune_core.text_to_sql.comparing import same
from finetune_core.text_to_sql.database import Database, Result
from finetune_core.text_to_sql.sources import open_databases
from finetune_core.text_to_sql.statements import (
    RefusedQuery,
    answered,
    normalised,
    parse_select,
)
from finetune_core.types import EvaluationMetric


class Gold(NamedTuple):
    """What is right for a row: any of some queries, of a database."""

    database: str
    queries: list[str]


class Scored(NamedTuple):
    """What became of an answer."""

    right: bool
    valid: bool
    exact: bool


class Scorer:
    """Compares answers with the gold SQL of their rows.

    Args:
        config: The databases, and where the gold SQL is.
        rows: The rows' numbers in the file that is measured.
        expected: Their expected answers, which are the gold SQL where the config names no other.

    Raises:
        EvaluationError: The gold SQL is not there, or does not run any more.
        DatabaseError: A database cannot be read.
    """

    def __init__(self, config: SqlConfig, rows: Sequence[int], expected: Sequence[str]) -> None:
        self._config = config
        self._golds = _golds(config, rows, expected)
        self._known: dict[tuple[str, str], Result] = {}  # what gold queries give

    def statistic(self, answers: Sequence[str]) -> Statistic:
        """The metrics of a model's answers, in the order of the rows; each between 0 and 1."""
        with ExitStack() as stack:
            databases = open_databases(self._config, stack)
            pairs = zip(self._golds, answers, strict=True)
            scored = [self._score(gold, answer, databases[gold.database]) for gold, answer in pairs]
        return mean(
            {
                EvaluationMetric.EXECUTION_ACCURACY.value: [each.right for each in scored],
                EvaluationMetric.VALID_SQL.value: [each.valid for each in scored],
                EvaluationMetric.SQL_EXACT_MATCH.value: [each.exact for each in scored],
            }
        )

    def _score(self, gold: Gold, answer: str, database: Database) -> Scored:
        results = [self._ask(query, database) for query in gold.queries]
        sql = answered(answer)
        try:
            text = _normalised(sql, database)
            given = database.query(sql)
        except RefusedQuery as refused:
            # One that gives too many rows is SQL, but not what was asked for.
            return Scored(False, refused.rule == "too_many_rows", False)
        return Scored(
            right=any(same(result, given) for result in results),
            valid=True,
            exact=text in [_normalised(query, database) for query in gold.queries],
        )

    def _ask(self, query: str, database: Database) -> Result:
        key = database.name, query
        if key not in self._known:
            try:
                self._known[key] = database.query(query)
            except RefusedQuery as refused:
                raise EvaluationError(
                    f"the gold SQL {query!r} does not run on {database.name}: {refused}",
                    hint="Has the database changed since the dataset was made?",
                ) from None
        return self._known[key]


def _normalised(query: str, database: Database) -> str:
    return normalised(parse_select(query, database.dialect), database.dialect)


def _golds(config: SqlConfig, rows: Sequence[int], expected: Sequence[str]) -> list[Gold]:
    if config.golds is None:
        if len(config.databases) > 1:
            raise EvaluationError(
                "nobody says which row is of which database",
                hint="Make the dataset by text-to-sql, or name one database.",
            )
        name = config.databases[0].title
        return [Gold(name, [answered(each)]) for each in expected]
    try:
        lines = config.golds.read_text().splitlines()
        known: Mapping[int, dict[str, Any]] = {line["row"]: line for line in map(json.loads, lines)}
        return [Gold(known[row]["database"], known[row]["sql"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{config.golds} does not hold the gold SQL of the rows: {type(error).__name__} {error}"
        ) from None
