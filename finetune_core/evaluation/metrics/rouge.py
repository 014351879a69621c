"""ROUGE F-scores (Lin 2004) by the rouge_score package, as means over the answers."""

import datasets
import evaluate
from rouge_score import rouge_scorer

NAMES = ["rouge1", "rouge2", "rougeL"]


class Rouge(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`rouge1`, `rouge2` and `rougeL` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scorer = rouge_scorer.RougeScorer(NAMES)
        pairs = zip(predictions, references, strict=True)
        scores = [scorer.score(reference, prediction) for prediction, reference in pairs]
        return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in NAMES}
