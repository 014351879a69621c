"""Warns where one label stands far more often than another."""

from __future__ import annotations

from collections import Counter

from finetune_core.data.formats import Message

MOST_LABELS, LONGEST_LABEL, ROWS_A_LABEL = 50, 40, 5


class LabelImbalance:
    """Counts the answers of training rows where they are labels: short, few, and often the same."""

    def __init__(self, ratio: float | None) -> None:
        self._ratio = ratio
        self._counts: Counter[str] | None = Counter()

    def add(self, label: str | None) -> None:
        """Counts a row's label, as `label_of` gives it."""
        if self._counts is None:
            return
        if label is None:
            self._counts = None  # these are texts, not labels
            return
        self._counts[label] += 1
        if len(self._counts) > MOST_LABELS:
            self._counts = None

    def warnings(self) -> list[str]:
        """What is to be said of the rows. It names no label: one could be personal."""
        if self._ratio is None or not self._counts:
            return []
        counts = sorted(self._counts.values())
        if sum(counts) < ROWS_A_LABEL * len(counts):
            return []
        if len(counts) == 1:
            return [f"all {counts[0]:,} rows of the training file have the same label"]
        if counts[-1] < self._ratio * counts[0]:
            return []
        return [
            f"of {len(counts)} labels, the most frequent stands in {counts[-1]:,} rows, "
            f"the rarest in {counts[0]:,}"
        ]


def label_of(messages: list[Message]) -> str | None:
    """A row's last answer, where it is short enough for a label."""
    answers = [message["content"].strip() for message in messages if message["trained"]]
    if not answers or len(answers[-1]) > LONGEST_LABEL or "\n" in answers[-1]:
        return None
    return answers[-1]
