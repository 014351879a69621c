"""The metrics on generated answers: `evaluate` modules kept here, for the hub's need a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from finetune_core.evaluation.intervals import Estimate, Statistic, Weights, estimate
from finetune_core.exceptions import EvaluationError, Fault, FineTuneError, InvalidConfigError
from finetune_core.types import OF_SQL, OF_TOKENS, EvaluationMetric

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
    wanted = list(dict.fromkeys(metrics))
    found = dict(known or {})
    if any(each not in OF_TOKENS for each in wanted):
        found |= estimate(statistic(wanted, predictions, references), len(references))
    ours = {each.value for each in EvaluationMetric}
    estimates: dict[str, Estimate] = {}
    for metric in wanted:
        names = [metric.value] if isinstance(metric, EvaluationMetric) else found.keys() - ours
        estimates |= {name: found[name] for name in found if name in names}
    return estimates


def statistic(
    metrics: Iterable[EvaluationMetric | str],
    predictions: Sequence[str],
    references: Sequence[str],
) -> Statistic:
    """All metrics on generated answers, of which resamples are drawn once; raises as `compute`.

    Args:
        metrics: As `compute` takes them; those that no module computes are passed over.
        predictions: The generated answers.
        references: The expected answers, in the same order.
    """
    files = {each: find_module(each) for each in metrics if each not in (*OF_TOKENS, *OF_SQL)}
    modules = {
        file: _statistic(file, list(predictions), list(references)) for file in files.values()
    }

    def together(weights: Weights) -> dict[str, float]:
        computed = {file: module(weights) for file, module in modules.items()}
        values: dict[str, float] = {}
        for metric, file in files.items():
            found = computed[file]
            if isinstance(metric, EvaluationMetric):
                found = {metric.value: found[metric.value]}
            if taken := values.keys() & found.keys():
                raise EvaluationError(f"two metrics are called {', '.join(sorted(taken))}")
            values |= found
        return values

    return together


def refuse_sql(metrics: Iterable[EvaluationMetric | str]) -> None:
    """Refuses metrics that execute queries, where there is no database.

    Raises:
        InvalidConfigError: There are some.
    """
    if asked := [metric.value for metric in OF_SQL if metric in metrics]:
        problem = f"{asked[0]} executes queries: a job with a `sql` section measures it"
        raise InvalidConfigError([Fault("metrics", problem)])


def check_modules(metrics: Iterable[EvaluationMetric | str]) -> None:
    """Finds at once what would otherwise be found only when there are answers.

    Raises:
        InvalidConfigError: A module's file is not there.
    """
    for metric in metrics:
        if metric not in (*OF_TOKENS, *OF_SQL):
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


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Says which module fails: it is code, and raises whatever it stumbles over."""
    try:
        yield
    except FineTuneError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"the metric {file} fails: {type(error).__name__}: {error}",
            hint="It is given generated and expected answers, both as texts.",
        ) from error


def _statistic(file: Path, predictions: list[str], references: list[str]) -> Statistic:
    import evaluate

    from finetune_core.evaluation.metrics.text_metric import TextMetric

    with _named(file):
        module = evaluate.load(str(file))
        if isinstance(module, TextMetric):
            return module.statistic(predictions, references)

    def statistic(weights: Weights) -> dict[str, float]:
        drawn = np.repeat(np.arange(len(weights)), weights)
        with _named(file):
            found: Mapping[str, Any] = module.compute(
                predictions=[predictions[row] for row in drawn],
                references=[references[row] for row in drawn],
            )
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, Real)}
        if not numbers:
            raise EvaluationError(f"the metric {file} gives no number, but {sorted(found)}")
        return numbers

    return statistic
