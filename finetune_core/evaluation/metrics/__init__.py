"""The metrics on generated answers: `evaluate` modules kept here, for the hub's need a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from finetune_core.types import EvaluationMetric

# Which module computes a metric; one module may give several.
MODULES = {
    EvaluationMetric.EXACT_MATCH: "exact_match",
    EvaluationMetric.ROUGE_1: "rouge",
    EvaluationMetric.ROUGE_2: "rouge",
    EvaluationMetric.ROUGE_L: "rouge",
    EvaluationMetric.BLEU: "bleu",
}


def compute(
    metrics: Iterable[EvaluationMetric], predictions: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
    """Computes metrics, each between 0 and 1.

    Args:
        metrics: What to compute.
        predictions: The generated answers.
        references: The expected answers, in the same order.
    """
    wanted = {metric.value for metric in metrics}
    values: dict[str, float] = {}
    for name in dict.fromkeys(MODULES[metric] for metric in metrics):
        scores = load(name).compute(predictions=predictions, references=references)
        values |= {metric: float(score) for metric, score in scores.items() if metric in wanted}
    return values


def text_metric(description: str | None) -> Any:
    """The `MetricInfo` of a metric that compares texts with texts.

    Args:
        description: The module's docstring.
    """
    import datasets
    import evaluate

    text = datasets.Value("string")
    features = datasets.Features({"predictions": text, "references": text})
    return evaluate.MetricInfo(description=description or "", citation="", features=features)


def load(name: str) -> Any:
    """Loads one of the modules kept here, by its path."""
    import evaluate

    return evaluate.load(str(Path(__file__).with_name(f"{name}.py")))
