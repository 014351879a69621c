"""The evaluate_registered flow: versions of the hub, measured on any dataset and compared."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from prefect import flow

from finetune_core.config.sections import DatasetConfig, EvaluationConfig, TokenizationConfig
from finetune_core.evaluation.evaluator import ComparisonResult
from finetune_core.jobs import organization_folder
from finetune_core.types import EvaluationMetric
from tasks.compare_models import compare_models
from tasks.fetch_models import fetch_models
from tasks.publish_comparison import publish_comparison

METRICS = (EvaluationMetric.EXACT_MATCH, EvaluationMetric.LOSS, EvaluationMetric.TOKEN_ACCURACY)


@flow(name="evaluate_registered")
def evaluate_registered(
    models: list[str],
    dataset: DatasetConfig | str,
    organization: str = "local",
    evaluation: EvaluationConfig | None = None,
    tokenization: TokenizationConfig | None = None,
) -> ComparisonResult:
    """Measures registered versions on a dataset and ranks them.

    The comparison is kept as a run called evaluate_registered in MLflow, as a table and as
    Markdown, and as an artifact in Prefect.

    Args:
        models: NAME@VERSION or NAME@ALIAS; a base's folder or its id may be among them.
        dataset: The rows: a file, or a whole dataset section.
        organization: Whose versions they are.
        evaluation: What is measured; the first metric ranks. Without it, exact_match, loss and
            token_accuracy.
        tokenization: How rows become tokens.

    Returns:
        What each scores, with its intervals, under the name NAME@NUMBER.

    Raises:
        VersionNotFoundError: There is no such version.
    """
    if isinstance(dataset, str):
        dataset = DatasetConfig(path=dataset)
    evaluation = evaluation or EvaluationConfig()
    if evaluation.metrics is None:
        evaluation = evaluation.model_copy(update={"metrics": list(METRICS)})
    folder = organization_folder(organization) / "evaluations"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        found = fetch_models(models, organization, Path(temporary))
        tokenization = tokenization or TokenizationConfig()
        result = compare_models(found, dataset, tokenization, evaluation, folder / uuid.uuid4().hex)
    publish_comparison(result, dataset, evaluation, organization)
    return result
