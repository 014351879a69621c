"""The task that keeps a comparison of models: as a run of the hub, and in Prefect."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from finetune_core.config.sections import DatasetConfig, EvaluationConfig
from finetune_core.data.sanitize import SanitizeRequest
from finetune_core.evaluation.evaluator import ComparisonResult
from finetune_core.evaluation.report import shown, table
from finetune_core.hub import open_hub
from finetune_core.types import DatasetSource
from tasks.publish_table import publish_table

NAME = "evaluate_registered"


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_comparison(
    result: ComparisonResult,
    dataset: DatasetConfig,
    evaluation: EvaluationConfig,
    organization: str,
) -> str:
    """A comparison → the id of its run, which holds it as a table and as Markdown."""
    hub = open_hub(organization)
    run_id = hub.start_run(NAME, {"organization": organization, "best_model": result.best_model})
    status = "FAILED"
    try:
        fields = {"dataset": dataset, "evaluation": evaluation}
        params = {
            f"{section}.{name}": value
            for section, config in fields.items()
            for name, value in config.model_dump(mode="json").items()
        }
        hub.log_params(run_id, {"models": ", ".join(result.models), **params})
        name = Path(dataset.path).name
        if dataset.source is DatasetSource.LOCAL_FILE:
            hub.log_dataset(
                run_id,
                name=name,
                source=str(Path(dataset.path).absolute()),
                digest=SanitizeRequest(dataset=dataset, cache=Path()).source_digest,
                context="evaluation",
            )
        hub.log_table(run_id, _rows(result), "comparison.json")
        text = markdown(result, name)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "comparison.md"
            file.write_text(text)
            hub.log_file(run_id, file)
        publish_table(organization, f"{NAME} {run_id}", text)
        status = "FINISHED"
    finally:
        hub.end_run(run_id, status)
    return run_id


def markdown(result: ComparisonResult, dataset: str) -> str:
    """The comparison for people, the best model first."""
    metrics = list(result.results[result.best_model].metrics)
    rows = [
        [
            str(place),
            name,
            *(shown(found.metrics[metric], found.intervals.get(metric)) for metric in metrics),
            f"{found.samples_evaluated:,}",
        ]
        for place, name in enumerate(result.ranking, start=1)
        for found in [result.results[name]]
    ]
    head = ["", "model", *metrics, "rows"]
    return "\n".join(
        [
            f"# Models on {dataset}",
            "",
            *table(head, rows),
            "",
            f"Ranked by {metrics[0]}; in brackets, the interval of 95 %.",
            "",
        ]
    )


def _rows(result: ComparisonResult) -> list[dict[str, object]]:
    """A row a model and metric, which a table can be sorted by."""
    return [
        {
            "rank": place,
            "model": name,
            "metric": metric,
            "value": value,
            "low": low,
            "high": high,
            "rows": found.samples_evaluated,
        }
        for place, name in enumerate(result.ranking, start=1)
        for found in [result.results[name]]
        for metric, value in found.metrics.items()
        for low, high in [found.intervals.get(metric, (value, value))]
    ]
