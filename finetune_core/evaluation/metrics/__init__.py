"""The metrics on generated answers: `evaluate` modules kept here, for the hub's need a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from finetune_core.evaluation.intervals import Estimate, Statistic, Weights, estimate
from finetune_core.exceptions import EvaluationError, Fault, FineTuneError, InvalidConfigError
from finetune_core.types import EvaluationMetric

# What a model tells of the expected answers themselves, without generating any.
OF_TOKENS = (
    EvaluationMetric.LOSS,
    EvaluationMetric.PERPLEXITY,
    EvaluationMetric.TOKEN_ACCURACY,
)

# Which module computes a metric; one module may give several.
MODULES = {
    EvaluationMetric.ACCURACY: "accuracy",
    EvaluationMetric.F1: "f1",
    EvaluationMetric.EXACT_MATCH: "exact_match",
    EvaluationMetric.ROUGE_1: "rouge",
    EvaluationMetric.ROUGE_2: "rouge",
    EvaluationMetric.ROUGE_L: "rouge",
    EvaluationMetric.BLEU: "bleu",
    EvaluationMetric.CHRF: "chrf",
}


def compute(
    metrics: Iterable[EvaluationMetric | str],
    predictions: Sequence[str],
    references: Sequence[str],
    known: Mapping[str, Estimate] | None = None,
) -> dict[str, Estimate]:
    """Computes metrics, each with its interval, in the order given.

    Args:
        metrics: What to compute: those kept here, between 0 and 1, or the file of a module.
            Each resample computes such a module anew, unless it is a `TextMetric`.
        predictions: The generated answers.
        references: The expected answers, in the same order.
        known: Those of `OF_TOKENS`, which no module computes.

    Raises:
        InvalidConfigError: There is no such file.
        EvaluationError: A module does not run on texts, gives no number, or a name twice.
    """
    computed: dict[Path, dict[str, Estimate]] = {}
    estimates: dict[str, Estimate] = {}
    for metric in dict.fromkeys(metrics):
        if isinstance(metric, EvaluationMetric) and metric in OF_TOKENS:
            estimates |= {metric.value: known[metric.value]} if known else {}
            continue
        file = find_module(metric)
        if file not in computed:
            computed[file] = _estimates(file, list(predictions), list(references))
        found = computed[file]
        if isinstance(metric, EvaluationMetric):
            found = {metric.value: found[metric.value]}
        if taken := estimates.keys() & found.keys():
            raise EvaluationError(f"two metrics are called {', '.join(sorted(taken))}")
        estimates |= found
    return estimates


def check_modules(metrics: Iterable[EvaluationMetric | str]) -> None:
    """Finds at once what would otherwise be found only when there are answers.

    Raises:
        InvalidConfigError: A module's file is not there.
    """
    for metric in metrics:
        if metric not in OF_TOKENS:
            find_module(metric)


def find_module(metric: EvaluationMetric | str) -> Path:
    """The file of the module that computes a metric.

    Raises:
        InvalidConfigError: There is no such file.
    """
    if isinstance(metric, EvaluationMetric):
        return Path(__file__).with_name(f"{MODULES[metric]}.py")
    if not Path(metric).is_file():  # never a name on the hub, whose code would be run
        raise InvalidConfigError([Fault("evaluation.metrics", f"there is no file {metric}")])
    return Path(metric)


def _estimates(file: Path, predictions: list[str], references: list[str]) -> dict[str, Estimate]:
    try:
        return estimate(_statistic(file, predictions, references), len(references))
    except FineTuneError:
        raise
    except Exception as error:  # a module is code: it raises whatever it stumbles over
        raise EvaluationError(
            f"the metric {file} fails: {type(error).__name__}: {error}",
            hint="It is given generated and expected answers, both as texts.",
        ) from error


def _statistic(file: Path, predictions: list[str], references: list[str]) -> Statistic:
    import evaluate

    from finetune_core.evaluation.metrics.text_metric import TextMetric

    module = evaluate.load(str(file))
    if isinstance(module, TextMetric):
        return module.statistic(predictions, references)

    def statistic(weights: Weights) -> dict[str, float]:
        drawn = np.repeat(np.arange(len(weights)), weights)
        found: Mapping[str, Any] = module.compute(
            predictions=[predictions[row] for row in drawn],
            references=[references[row] for row in drawn],
        )
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, Real)}
        if not numbers:
            raise EvaluationError(f"the metric {file} gives no number, but {sorted(found)}")
        return numbers

    return statistic
