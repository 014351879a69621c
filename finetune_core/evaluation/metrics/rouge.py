"""ROUGE F-scores (Lin 2004) by the rouge_score package, as means over the answers."""

import evaluate
from rouge_score import rouge_scorer

from finetune_core.evaluation.metrics import text_metric

NAMES = ["rouge1", "rouge2", "rougeL"]


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`rouge1`, `rouge2` and `rougeL` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(__doc__)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scorer = rouge_scorer.RougeScorer(NAMES)
        pairs = zip(predictions, references, strict=True)
        scores = [scorer.score(reference, prediction) for prediction, reference in pairs]
        return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in NAMES}
