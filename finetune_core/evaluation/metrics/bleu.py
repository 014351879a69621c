"""Corpus BLEU by sacrebleu (Post 2018), divided by 100."""

import evaluate
import sacrebleu

from finetune_core.evaluation.metrics import text_metric


class Bleu(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """`bleu` between 0 and 1."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric(__doc__)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references]).score / 100}
