"""The share of answers that are the expected text, but for white space at the ends."""

import evaluate

from finetune_core.evaluation.metrics import text_metric


class ExactMatch(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`exact_match` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(__doc__)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        hits = sum(prediction.strip() == reference.strip() for prediction, reference in pairs)
        return {"exact_match": hits / len(references)}
