"""The task that measures models on the same rows, in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from finetune_core import child
from finetune_core.config.sections import DatasetConfig, EvaluationConfig, TokenizationConfig
from finetune_core.evaluation.evaluator import CompareRequest, ComparisonResult
from tasks.stage import STAGE
from tasks.terminal import Terminal


@task(name="compare", **STAGE)
def compare_models(
    models: Mapping[str, str],
    dataset: DatasetConfig,
    tokenization: TokenizationConfig,
    evaluation: EvaluationConfig,
    folder: Path,
) -> ComparisonResult:
    """Models on a dataset → what each scores, and their ranking.

    Args:
        models: What each is called → what loads.
        dataset: The rows.
        tokenization: How rows become tokens.
        evaluation: What is measured; the first metric ranks.
        folder: Gets the child's events and log.
    """
    request = CompareRequest(
        models=list(models.values()),
        dataset=dataset,
        tokenization=tokenization,
        evaluation=evaluation,
    )
    with Terminal("evaluate") as terminal:
        found = child.run(
            "finetune_core.evaluation.evaluator:compare",
            request,
            ComparisonResult,
            folder=folder,
            on_event=terminal,
        )
    names = {loaded: name for name, loaded in models.items()}
    return ComparisonResult(
        models=[names[each] for each in found.models],
        results={
            names[each]: result.model_copy(update={"model": names[each]})
            for each, result in found.results.items()
        },
        best_model=names[found.best_model],
        ranking=[names[each] for each in found.ranking],
    )
