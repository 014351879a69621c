"""Corpus chrF by sacrebleu (Popović 2015), divided by 100."""

import sacrebleu

from finetune_core.evaluation.intervals import Statistic
from finetune_core.evaluation.metrics.text_metric import TextMetric, corpus


class Chrf(TextMetric):
    """`chrf` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """The n-grams of characters that each answer shares with the expected one."""
        return corpus("chrf", sacrebleu.CHRF(), predictions, references)
