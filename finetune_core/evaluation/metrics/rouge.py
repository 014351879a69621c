"""ROUGE F-scores (Lin 2004) by the rouge_score package, as means over the answers."""

from rouge_score import rouge_scorer

from finetune_core.evaluation.intervals import Statistic, mean
from finetune_core.evaluation.metrics.text_metric import TextMetric

NAMES = ["rouge1", "rouge2", "rougeL"]


class Rouge(TextMetric):
    """`rouge1`, `rouge2` and `rougeL` between 0 and 1."""

    def statistic(self, predictions: list[str], references: list[str]) -> Statistic:
        """The scores of each answer."""
        scorer = rouge_scorer.RougeScorer(NAMES)
        pairs = zip(predictions, references, strict=True)
        scores = [scorer.score(wanted, given) for given, wanted in pairs]
        return mean({name: [score[name].fmeasure for score in scores] for name in NAMES})
