"""Evaluator: models measured and ranked by their names, for use from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from pydantic import ValidationError

from finetune_core.child import Emit
from finetune_core.config.pipeline import config_error
from finetune_core.config.sections import (
    DatasetConfig,
    EvaluationConfig,
    ModelConfig,
    TokenizationConfig,
)
from finetune_core.evaluation.benchmark import BenchmarkRunner, Rows
from finetune_core.evaluation.intervals import Interval
from finetune_core.evaluation.metrics import check_modules, refuse_sql
from finetune_core.exceptions import AdapterError, Fault, InvalidConfigError
from finetune_core.models.merging import ADAPTER_CONFIG, base_of, read_adapter
from finetune_core.models.source import find_model, tokenizer_folder
from finetune_core.models.tasks import read_labels
from finetune_core.types import LESS_IS_BETTER, EvaluationMetric, Record


class EvaluationResult(Record):
    """What a model scores on a dataset.

    Attributes:
        model: Its identifier.
        metrics: Each metric's value.
        samples_evaluated: The rows that were measured; with metrics of answers, those answered.
        duration: Seconds, with loading the model.
        intervals: Each metric's 95 % interval.
    """

    model: str
    metrics: dict[str, float]
    samples_evaluated: int
    duration: float
    intervals: dict[str, Interval]


class ComparisonResult(Record):
    """Several models on one dataset.

    Attributes:
        models: Their identifiers, as they were given.
        results: What each scores.
        best_model: The first of the ranking.
        ranking: The models by the first metric, the best one first; equal ones as they were given.
    """

    models: list[str]
    results: dict[str, EvaluationResult]
    best_model: str
    ranking: list[str]


class CompareRequest(Record):
    """What a comparison is asked."""

    models: list[str]
    dataset: DatasetConfig
    tokenization: TokenizationConfig
    evaluation: EvaluationConfig


class Evaluator:
    """Measures models that are named: a folder, an adapter's folder, or an id on the hub.

    A model's own tokenizer and chat template are used, so losses of models with unlike
    tokenizers say little of each other; no code of a model's is run.

    Args:
        metrics: What is measured; the first one ranks.
        tokenization: How rows become tokens; without it, as a job does by default.
        emit: Hears of the progress.
        settings: The other fields of `EvaluationConfig`: `num_samples` (so many rows are
            measured, the first), `batch_size`, `generation_max_length`.

    Raises:
        InvalidConfigError: A metric or a setting is not known; every fault is listed.

    Example:
        >>> evaluator = Evaluator(metrics=["accuracy", "f1"], num_samples=500)
        >>> evaluator.compare(["examples/tiny_base", "jobs/ftjob-1/adapter"], dataset).best_model
        'jobs/ftjob-1/adapter'
    """

    def __init__(
        self,
        metrics: Sequence[str] = (EvaluationMetric.ACCURACY.value,),
        *,
        tokenization: TokenizationConfig | None = None,
        emit: Emit | None = None,
        **settings: Any,
    ) -> None:
        try:
            self._config = EvaluationConfig(metrics=list(metrics), **settings)
        except ValidationError as error:
            raise config_error(error) from None
        if not metrics:
            raise InvalidConfigError([Fault("metrics", "needs one or more")])
        refuse_sql(self._config.metrics or ())
        check_modules(self._config.metrics or ())
        self._tokenization = tokenization or TokenizationConfig()
        self._emit = emit

    def evaluate(self, model: str | Path, dataset: Rows) -> EvaluationResult:
        """Measures a model.

        Args:
            model: What `save_pretrained` wrote, of a whole model or of an adapter, whose base is
                then found too; or an id on the hub.
            dataset: Rows in memory, a file, or a dataset section.

        Raises:
            InputError: The model is not there, or the rows cannot be measured.
            ModelLoadError: The model does not load.
            EvaluationError: A metric does not run.
        """
        return self._evaluate(_find(str(model)), dataset)

    def compare(self, models: Sequence[str | Path], dataset: Rows) -> ComparisonResult:
        """Measures several models on the same rows and ranks them; raises as `evaluate`.

        A row that is too long for a model's tokenizer is left out for that model alone, which
        `samples_evaluated` tells.
        """
        if not models:
            raise InvalidConfigError([Fault("models", "needs one or more")])
        found = [_find(name) for name in dict.fromkeys(map(str, models))]
        results = {each.name: self._evaluate(each, dataset) for each in found}
        ranking = sorted(results, key=lambda name: _badness(results[name]))
        return ComparisonResult(
            models=list(results), results=results, best_model=ranking[0], ranking=ranking
        )

    def _evaluate(self, found: _Found, dataset: Rows) -> EvaluationResult:
        from finetune_core.data.encode import load_tokenizer

        start = perf_counter()
        tokenizer = load_tokenizer(found.tokenizer)
        runner = BenchmarkRunner(self._config, tokenizer, self._tokenization, self._emit)
        result = runner.evaluate(_load(found, tokenizer), dataset, found.name)
        return EvaluationResult(
            model=found.name,
            metrics=result.scores,
            samples_evaluated=result.samples,
            duration=perf_counter() - start,
            intervals=result.intervals,
        )


def compare(request: CompareRequest, emit: Emit) -> ComparisonResult:
    """`Evaluator.compare`, of a request that came to a child process."""
    fields = request.evaluation.model_dump()
    evaluator = Evaluator(**fields, tokenization=request.tokenization, emit=emit)
    return evaluator.compare(request.models, request.dataset)


class _Found(NamedTuple):
    """A model that is there: the base, the adapter on it if there is one, and its tokenizer."""

    name: str
    base: ModelConfig
    adapter: Path | None
    tokenizer: Path


def _find(name: str) -> _Found:
    folder = Path(name)
    if not (folder / ADAPTER_CONFIG).is_file():
        base = ModelConfig(name=name)
        return _Found(name, base, None, find_model(base))
    adapter = read_adapter(folder)
    if not adapter.get("base_model_name_or_path"):
        raise AdapterError(f"the adapter in {folder} names no base")
    base = base_of(adapter)
    return _Found(name, base, folder, tokenizer_folder(folder, find_model(base)))


def _load(found: _Found, tokenizer: Any) -> Any:
    import peft
    import torch

    from finetune_core.models.loading import fit_vocabulary, load_model

    model = load_model(found.base, read_labels(found.adapter) if found.adapter else ())
    if found.adapter:
        fit_vocabulary(model, tokenizer)
        try:
            model = peft.PeftModel.from_pretrained(model, found.adapter)
        except Exception as error:  # peft raises whatever the files make it stumble over
            raise AdapterError(
                f"the adapter in {found.adapter} does not load on {found.base.name}: {error}"
            ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _badness(result: EvaluationResult) -> float:
    """By which a ranking ascends."""
    metric, value = next(iter(result.metrics.items()))
    return value if metric in LESS_IS_BETTER else -value
