"""The share of answers that are the expected label, but for case and white space at the ends."""

from finetune_core.evaluation.intervals import Statistic, mean
from finetune_core.evaluation.metrics.text_metric import TextMetric, label


class Accuracy(TextMetric):
    """`accuracy` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """Whether each label is right."""
        pairs = zip(predictions, references, strict=True)
        return mean({"accuracy": [label(given) == label(wanted) for given, wanted in pairs]})
