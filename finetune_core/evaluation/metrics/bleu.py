"""Corpus BLEU by sacrebleu (Post 2018), divided by 100."""

import datasets
import evaluate
import sacrebleu


class Bleu(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`bleu` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references]).score / 100}
