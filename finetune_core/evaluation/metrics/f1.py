"""F1 of labels, each as weighty as another (macro), compared as `accuracy` compares them.

The labels are those that are expected. An answer that is none of them is a miss of the expected
one; it is no label by itself, so a model that rambles is not marked down once for every ramble.
"""

import numpy as np

from finetune_core.evaluation.intervals import Statistic, Weights
from finetune_core.evaluation.metrics.text_metric import TextMetric, label


class F1(TextMetric):
    """`f1` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """The labels as numbers, from which a resample's hits and misses are counted."""
        wanted = [label(text) for text in references]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(wanted))}
        count = len(numbers)
        expected = np.array([numbers[name] for name in wanted])
        given = np.array([numbers.get(label(text), count) for text in predictions])
        right = expected == given

        def statistic(weights: Weights) -> dict[str, float]:
            there = np.bincount(expected, weights, count)
            named = np.bincount(given, weights, count + 1)[:count]
            hits = np.bincount(expected, weights * right, count)
            drawn = there > 0  # a resample is measured by the labels that it expects
            return {"f1": float(np.mean(2 * hits[drawn] / (there + named)[drawn]))}

        return statistic
