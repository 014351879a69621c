"""What the metrics kept here have in common: texts compared with texts, and quick to resample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import datasets
import evaluate
import numpy as np

from finetune_core.evaluation.intervals import Statistic, Weights


class TextMetric(evaluate.Metric, ABC):  # type: ignore[misc]  # evaluate is untyped
    """A metric that is computed from its `statistic`, on all answers as on a resample of them."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=features)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return self.statistic(predictions, references)(np.ones(len(references), dtype=np.int64))

    @abstractmethod
    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """Compares the answers once, so that the values of any resample are quick to compute.

        Args:
            predictions: The generated answers.
            references: The expected answers, in the same order.
        """


def label(text: str) -> str:
    """A text as a label: case and white space at its ends tell nothing."""
    return text.strip().casefold()


def corpus(name: str, scorer: Any, predictions: list[str], references: list[str]) -> Statistic:
    """The statistic of a metric of sacrebleu's, which it computes from counts summed over rows.

    These are the calls of sacrebleu's own bootstrap.

    Args:
        name: What the value is called.
        scorer: The metric, with scores up to 100.
        predictions: The generated answers.
        references: The expected answers, in the same order.
    """
    counts = np.array(scorer._extract_corpus_statistics(predictions, [references]))

    def statistic(weights: Weights) -> dict[str, float]:
        totals = (weights @ counts).tolist()
        return {name: scorer._compute_score_from_stats(totals).score / 100}

    return statistic
