"""The task that measures base and tuned model, in a child process."""

from prefect import task

from finetune_core.child import Emit
from finetune_core.config import PipelineConfig
from finetune_core.evaluation.request import EvaluateRequest
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.types import ChosenCheckpoint, EvaluationReport, Job, TokenizedData
from tasks.artifacts import publish_report
from tasks.stage import STAGE, run_in_child, run_stage


@task(name="evaluate", **STAGE)
def evaluate_model(
    job: Job,
    config: PipelineConfig,
    tokens: TokenizedData,
    chosen: ChosenCheckpoint,
) -> EvaluationReport:
    """Base and tuned model on the held-out rows → a report."""
    request = EvaluateRequest(
        tokens=tokens,
        chosen=chosen,
        model=config.model,
        method=config.training.method,
        evaluation=config.evaluation,
        sql=config.sql,
        output=job.folder / "report",
    )

    def work(hear: Emit) -> EvaluationReport:
        return run_in_child(
            "finetune_core.evaluation.evaluate:evaluate",
            request,
            EvaluationReport,
            final=request.output,
            job=job,
            hear=hear,
        )

    report = run_stage(
        job,
        "evaluate",
        work,
        lambda report: (
            f"{report.rows:,} held-out rows, loss {report.base['loss']:.4f} → "
            f"{report.tuned['loss']:.4f}"
        ),
    )
    publish_report(job, report)
    Tracking(open_hub(job.organization), job).tell_report(report)
    return report
