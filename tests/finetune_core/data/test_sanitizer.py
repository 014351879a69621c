"""DatasetSanitizer: rows in memory, sanitized and validated from Python."""

from __future__ import annotations

import pandas as pd

from finetune_core import Dataset, DatasetSanitizer
from finetune_core.config.sanitizing import SanitizeConfig

ROWS = [
    {"text": "good", "label": "yes", "id": 1},
    {"text": " good\n", "label": "yes", "id": 2},  # the same again
    {"text": "write to ann@example.org", "label": "no", "id": 3},
    {"text": "bad", "label": "", "id": 4},
    {"text": "caf\u00c3\u00a9", "label": "no", "id": 5},  # wrongly decoded
    {"text": "good", "label": "no", "id": 6},  # another answer
]


def test_problematic_rows_are_removed_and_broken_ones_mended_in_their_own_columns():
    rules = SanitizeConfig(email="redact", conflict="drop")
    left = DatasetSanitizer(rules).sanitize(Dataset("reviews", ROWS))
    assert left.name == "reviews"
    assert left.rows == [
        ROWS[0],
        {"text": "write to [EMAIL]", "label": "no", "id": 3},
        {"text": "café", "label": "no", "id": 5},
    ]


def test_what_is_only_flagged_stays_as_it_is():
    rules = SanitizeConfig(email="flag", unicode="flag", duplicate="flag", empty="flag")
    dataset = Dataset("reviews", ROWS)
    assert DatasetSanitizer(rules).sanitize(dataset).rows == ROWS
    assert DatasetSanitizer(rules).sanitize(Dataset("none")).rows == []


def test_rows_nearly_the_same_are_removed_where_asked_for():
    words = [f"word{n}" for n in range(200)]
    texts = [" ".join(words), " ".join([*words, "more"]), " ".join(reversed(words))]
    rows = Dataset("a", [{"text": text, "label": "x"} for text in texts])
    rules = SanitizeConfig(near_duplicate="drop")
    assert [row["text"] for row in DatasetSanitizer(rules).sanitize(rows)] == [texts[0], texts[2]]
    assert len(DatasetSanitizer().sanitize(rows)) == 3


def test_validation_counts_what_would_become_of_the_rows():
    result = DatasetSanitizer().validate(Dataset("reviews", ROWS))
    assert result.valid
    assert result.errors == []
    assert result.stats["format"] == "text_label"
    assert result.stats["rows"] == 6
    assert (result.stats["kept"], result.stats["changed"], result.stats["dropped"]) == (3, 1, 2)
    assert "1 row dropped by duplicate" in result.warnings
    assert "1 row flagged by conflict" in result.warnings


def test_rows_that_cannot_be_read_are_errors_with_their_numbers():
    rows = [{"text": "a", "label": "b"}, {"text": ["a"], "label": "b"}, {"label": "b"}]
    result = DatasetSanitizer().validate(Dataset("a", rows))
    assert not result.valid
    assert [error.partition(":")[0] for error in result.errors] == ["row 2", "row 3"]
    assert "found list" in result.errors[0]
    many = DatasetSanitizer().validate(Dataset("a", [rows[0], *[rows[1]] * 30]))
    assert len(many.errors) == 21
    assert many.errors[-1] == "and 10 more rows"


def test_a_dataset_that_cannot_teach_is_not_valid():
    for rows in ([], [{"x": "1", "y": "2"}], [{"text": "a", "label": " "}] * 2):
        result = DatasetSanitizer().validate(Dataset("a", rows))
        assert not result.valid
        assert result.errors


def test_what_a_frame_lacks_counts_as_empty():
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1.0, float("nan"), 2.0]})
    dataset = Dataset("a", frame)
    assert DatasetSanitizer().validate(dataset).stats["dropped_by_rule"] == {"empty": 1}
    assert [row["text"] for row in DatasetSanitizer().sanitize(dataset)] == ["a", "c"]


def test_one_label_everywhere_is_warned_of():
    rows = [{"text": f"text {n}", "label": "yes"} for n in range(20)]
    warnings = DatasetSanitizer().validate(Dataset("a", rows)).warnings
    assert any("the same label" in warning for warning in warnings)
