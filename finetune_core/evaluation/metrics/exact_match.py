"""The share of answers that are the expected text, but for white space at the ends."""

from finetune_core.evaluation.intervals import Statistic, mean
from finetune_core.evaluation.metrics.text_metric import TextMetric


class ExactMatch(TextMetric):
    """`exact_match` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """Whether each answer is the expected one."""
        pairs = zip(predictions, references, strict=True)
        return mean({"exact_match": [given.strip() == wanted.strip() for given, wanted in pairs]})
