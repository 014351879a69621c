"""The retrain flow: the same config on the data as it is now, as a new job."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.deployments import run_deployment

from finetune_core.config import PipelineConfig
from finetune_core.jobs import model_name
from finetune_core.types import new_job_id


@flow(name="retrain")
def retrain(
    config: PipelineConfig, organization: str = "local", deployment: str = "finetune/cpu"
) -> str | None:
    """Has a job fine-tune anew, for a schedule to run: the data may have changed.

    It only submits the job, which is a flow run like any other: it is paused, resumed and
    cancelled as others are, and this one holds no worker meanwhile. Rows and tokens that are known
    are found in the organisation's cache; the training is not skipped where nothing has changed.

    Args:
        config: The base model, the data and how to train.
        organization: Whose job it is: its files, its runs and its models lie apart.
        deployment: The deployment that runs it, as `flow/deployment`.

    Returns:
        The id of the new job, whose model is a new version of the same name; none where the job
        of the last time has not ended.
    """
    tags = [f"retrain:{model_name(config)}", f"org:{organization}"]
    if unfinished := _unfinished(deployment, tags):
        get_run_logger().warning("%s has not ended yet, so no other begins", unfinished)
        return None
    job_id = new_job_id()
    run_deployment(
        deployment,
        parameters={
            "config": config.model_dump(mode="json"),
            "organization": organization,
            "job_id": job_id,
        },
        flow_run_name=job_id,
        tags=[*tags, f"job:{job_id}"],
        idempotency_key=job_id,
        timeout=0,
        as_subflow=False,
    )
    return job_id


def _unfinished(deployment: str, tags: list[str]) -> str | None:
    """The job of the last time, where it has not ended."""
    wanted = {
        "tags": {"all_": tags},
        "state": {"type": {"not_any_": [state.value for state in TERMINAL_STATES]}},
    }
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            deployment_filter=DeploymentFilter(
                id=DeploymentFilterId(any_=[client.read_deployment_by_name(deployment).id])
            ),
        )
    return next((run.name for run in runs), None)
