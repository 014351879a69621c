"""The share of answers that are the expected text, but for white space at the ends."""

import datasets
import evaluate


class ExactMatch(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`exact_match` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        hits = sum(prediction.strip() == reference.strip() for prediction, reference in pairs)
        return {"exact_match": hits / len(references)}
