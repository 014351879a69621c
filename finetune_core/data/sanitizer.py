"""DatasetSanitizer: the rules of sanitizing for rows in memory, for use from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import DatasetConfig
from finetune_core.data.dataset import Dataset
from finetune_core.data.examine import Examined, examine, looks_for_near
from finetune_core.data.formats import RowFault, find_format
from finetune_core.data.ledger import CHANGED, DROPPED, Counts, Finding
from finetune_core.data.loading import Block
from finetune_core.data.rules import make_comparisons
from finetune_core.data.rules.label_imbalance import LabelImbalance
from finetune_core.data.rules.near import NearRows
from finetune_core.data.rules.personal_data import FINDERS, redact_all
from finetune_core.data.rules.unicode import repair_row
from finetune_core.data.sanitize import compare_rows
from finetune_core.data.source import TRAINING
from finetune_core.exceptions import DatasetError
from finetune_core.types import Record

MOST_ERRORS = 20  # that a validation lists


class ValidationResult(Record):
    """What a validation found.

    Attributes:
        valid: Whether a model could learn from the dataset.
        errors: Why not; rows are named by their number, counted from 1.
        warnings: What somebody should look at.
        stats: The format, and the rows that are kept, changed and dropped, by rule too.
    """

    valid: bool
    errors: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    stats: dict[str, Any] = Field(default_factory=dict)


class DatasetSanitizer:
    """Mends and drops rows as a job would before it trains on them.

    Args:
        rules: What each rule does; without it, what a job does by default.

    Example:
        >>> rows = [{"text": "good", "label": "yes"}, {"text": "good", "label": "yes"}]
        >>> len(DatasetSanitizer().sanitize(Dataset("reviews", rows)))
        1
    """

    def __init__(self, rules: SanitizeConfig | None = None) -> None:
        self._rules = rules or SanitizeConfig()

    def sanitize(self, dataset: Dataset) -> Dataset:
        """Gives the rows that are left, in their own columns, mended where a rule mends.

        Raises:
            DatasetError: The rows have no known format, or one of them does not fit it.
        """
        if not dataset.rows:
            return Dataset(dataset.name)
        examined = self._judge(dataset)
        outcomes = zip(dataset.rows, examined.outcomes, strict=True)
        return Dataset(
            dataset.name,
            [
                self._mended(row) if outcome == CHANGED else row
                for row, outcome in outcomes
                if outcome != DROPPED
            ],
        )

    def validate(self, dataset: Dataset) -> ValidationResult:
        """Says whether a model could learn from a dataset, and what is doubtful about it."""
        stats: dict[str, Any] = {"rows": len(dataset)}
        if not dataset.rows:
            return ValidationResult(valid=False, errors=["there are no rows"], stats=stats)
        columns = list(dataset.rows[0])
        stats["columns"] = columns
        try:
            stats["format"] = find_format(columns).name
            examined = self._judge(dataset)
        except DatasetError as error:
            errors = self._faults(dataset) or [str(error)]
            return ValidationResult(valid=False, errors=errors, stats=stats)
        counts, labels = Counts(), LabelImbalance(self._rules.label_imbalance)
        for outcome, found, label in zip(
            examined.outcomes, examined.findings, examined.labels, strict=True
        ):
            counts.add(outcome, [each.rule for each in found], [each.action for each in found])
            if outcome != DROPPED:
                labels.add(label)
        stats |= counts.fields()
        warnings = [
            f"{n:,} row{'s' if n > 1 else ''} {done} by {rule}"
            for done in ("dropped", "changed", "flagged")
            for rule, n in stats[f"{done}_by_rule"].items()
        ]
        left = stats["rows"] - stats["dropped"]
        errors = [] if left else ["no row is left to learn from"]
        return ValidationResult(
            valid=not errors, errors=errors, warnings=warnings + labels.warnings(), stats=stats
        )

    def _judge(self, dataset: Dataset) -> Examined:
        block = Block(Path(dataset.name), 1, dataset.rows)
        config = DatasetConfig(path=dataset.name, sanitize=self._rules)
        examined = examine(config, tuple(dataset.rows[0]), block)
        left = compare_rows(make_comparisons(self._rules), block, examined, self._rules)
        if looks_for_near(self._rules) and examined.sketches:
            near = NearRows(self._rules)
            near.add(TRAINING, [place + 1 for place in left], examined.sketches.take(left))
            for (_, number), verdicts in near.verdicts(TRAINING).items():
                for rule, verdict in verdicts.items():
                    found = Finding(rule, verdict.action, verdict.detail)
                    examined.findings[number - 1].append(found)
                    if verdict.action == "drop":
                        examined.outcomes[number - 1] = DROPPED
        return examined

    def _mended(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row in its own columns, changed as its conversation was."""
        redacted = {kind: "off" for kind in FINDERS if getattr(self._rules, kind) != "redact"}
        mended = repair_row(row) if self._rules.unicode == "change" else row
        changed: dict[str, Any] = redact_all(self._rules.model_copy(update=redacted))(mended)
        return changed

    def _faults(self, dataset: Dataset) -> list[str]:
        """The rows that cannot be read, the first of them."""
        try:
            format_ = find_format(dataset.rows[0])
        except DatasetError:
            return []
        faults = []
        for number, row in enumerate(dataset.rows, start=1):
            try:
                format_.read(row)
            except (RowFault, KeyError) as fault:
                faults.append(f"row {number}: {fault}")
        more = len(faults) - MOST_ERRORS
        return [*faults[:MOST_ERRORS], *([f"and {more:,} more rows"] if more > 0 else [])]
