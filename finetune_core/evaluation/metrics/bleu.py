"""Corpus BLEU by sacrebleu (Post 2018), divided by 100."""

import sacrebleu

from finetune_core.evaluation.intervals import Statistic
from finetune_core.evaluation.metrics.text_metric import TextMetric, corpus


class Bleu(TextMetric):
    """`bleu` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """The n-grams of words that each answer shares with the expected one."""
        return corpus("bleu", sacrebleu.BLEU(), predictions, references)
