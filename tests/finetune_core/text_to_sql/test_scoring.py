"""Generated SQL, executed beside the gold SQL."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune_core.config.sql import SqlConfig
from finetune_core.exceptions import EvaluationError
from finetune_core.text_to_sql.scoring import Scorer


def config_of(shop, golds=None, **fields) -> SqlConfig:
    return SqlConfig.model_validate(
        {"databases": [{"url": shop.url, "name": "shop"}], "golds": golds, "seconds": 1, **fields}
    )


def score(shop, pairs, **fields) -> dict[str, float]:
    """The metrics of answers, each beside its gold SQL."""
    answers, expected = zip(*pairs, strict=True)
    scorer = Scorer(config_of(shop, **fields), range(1, len(pairs) + 1), expected)
    return scorer.statistic(answers)(np.ones(len(pairs), dtype=np.int64))


LAMPS = "SELECT customer FROM orders WHERE item = 'lamp'"


@pytest.mark.parametrize(
    ("answer", "right", "valid", "exact"),
    [
        (LAMPS, 1, 1, 1),
        ("select customer from orders where item='lamp';", 1, 1, 1),
        (f"```sql\n{LAMPS}\n```", 1, 1, 1),
        ("SELECT customer FROM orders WHERE id IN (1, 2)", 1, 1, 0),
        ("SELECT customer FROM orders", 0, 1, 0),
        ("SELECT nobody FROM orders", 0, 0, 0),
        ("I do not know.", 0, 0, 0),
        ("", 0, 0, 0),
        ("DROP TABLE orders", 0, 0, 0),
        (f"{LAMPS}; DROP TABLE orders", 0, 0, 0),
    ],
)
def test_an_answer_is_right_by_what_it_gives(shop, answer, right, valid, exact):
    before = shop.contents()
    assert score(shop, [(answer, LAMPS)]) == {
        "execution_accuracy": right,
        "valid_sql": valid,
        "sql_exact_match": exact,
    }
    assert shop.contents() == before


def test_metrics_are_shares_of_the_rows(sqlite):
    found = score(sqlite, [(LAMPS, LAMPS), ("SELECT 1", LAMPS), ("x", LAMPS), ("DELETE", LAMPS)])
    assert found == {"execution_accuracy": 0.25, "valid_sql": 0.5, "sql_exact_match": 0.25}


def test_any_of_several_gold_queries_is_right(sqlite, tmp_path):
    golds = tmp_path / "golds.jsonl"
    lines = [
        {"row": 7, "database": "shop", "sql": ["SELECT 1", "SELECT 2"]},
        {"row": 9, "database": "shop", "sql": ["SELECT 3"]},
    ]
    golds.write_text("\n".join(map(json.dumps, lines)))
    scorer = Scorer(config_of(sqlite, golds), [9, 7], ["", ""])
    found = scorer.statistic(["SELECT 3", "SELECT 2"])(np.ones(2, dtype=np.int64))
    assert found["execution_accuracy"] == 1


def test_an_answer_that_never_ends_is_wrong_and_the_rest_goes_on(sqlite):
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    found = score(sqlite, [(forever, LAMPS), (LAMPS, LAMPS)], max_rows=1_000_000, seconds=0.2)
    assert found["execution_accuracy"] == 0.5


def test_gold_sql_that_no_longer_runs_is_an_error_and_no_score(sqlite):
    with pytest.raises(EvaluationError, match=r"does not run on shop.*gone"):
        score(sqlite, [(LAMPS, "SELECT gone FROM orders")])


def test_rows_that_the_golds_do_not_know_are_an_error(sqlite, tmp_path):
    golds = tmp_path / "golds.jsonl"
    golds.write_text(json.dumps({"row": 1, "database": "shop", "sql": ["SELECT 1"]}))
    with pytest.raises(EvaluationError, match=r"golds\.jsonl"):
        Scorer(config_of(sqlite, golds), [2], ["SELECT 1"])


def test_rows_of_several_databases_need_to_say_of_which(sqlite):
    both = [{"url": sqlite.url, "name": "one"}, {"url": sqlite.url, "name": "two"}]
    with pytest.raises(EvaluationError, match="which database"):
        Scorer(SqlConfig.model_validate({"databases": both}), [1], ["SELECT 1"])
