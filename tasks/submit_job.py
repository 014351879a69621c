"""Has a deployment run a job, as a flow run like any other."""

from __future__ import annotations

from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from finetune_core.config import PipelineConfig


def submit_job(
    deployment: str, config: PipelineConfig, organization: str, job_id: str, tags: list[str]
) -> FlowRun:
    """Submits a job, and does not wait for it; one that is submitted already is found again.

    Args:
        deployment: What runs it, as `flow/deployment`.
        config: What the job is told.
        organization: Whose it is.
        job_id: Its id.
        tags: By whom it was submitted.
    """
    run = run_deployment(
        deployment,
        parameters={
            "config": config.model_dump(mode="json"),
            "organization": organization,
            "job_id": job_id,
        },
        flow_run_name=job_id,
        tags=[*tags, f"org:{organization}", f"job:{job_id}"],
        idempotency_key=job_id,
        timeout=0,
        as_subflow=False,
    )
    assert isinstance(run, FlowRun)  # noqa: S101 - a synchronous flow gets no coroutine
    return run
