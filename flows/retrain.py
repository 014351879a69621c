"""The retrain flow: a registered model's own card, run again on the data as it is now."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId, FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES

from finetune_core.config import PipelineConfig
from finetune_core.data.changes import Changes
from finetune_core.exceptions import Fault, MissingConfigError, NothingToRetrainError
from finetune_core.hub import open_hub, promotion
from finetune_core.hub.lineage import fetch_lineage
from finetune_core.hub.ports import Hub, Version
from finetune_core.jobs import model_name, organization_folder
from finetune_core.types import CHAMPION, Record, new_job_id
from tasks.find_changes import find_changes
from tasks.submit_job import submit_job


class Retraining(Record):
    """What came of a retraining.

    Attributes:
        model: The registered model's name.
        since: The version that the data was compared with; none where there is none.
        changes: The rows that came and went since; none where that is not known.
        skipped: Why nothing was trained; none where something was.
        job_id: The job that trains, or has trained.
    """

    model: str
    since: str | None
    changes: Changes | None
    skipped: str | None = None
    job_id: str | None = None


@flow(name="retrain")
def retrain(
    model: str | None = None,
    config: PipelineConfig | None = None,
    organization: str = "local",
    deployment: str | None = "finetune/cpu",
    min_drift: float = 0.0,
) -> Retraining:
    """Trains a registered model anew, for a schedule to run, unless nothing has changed.

    The rows are compared one by one with those that the champion, or else the newest version, was
    made from. The new version goes through the gate, so a worse one does not take over. With a
    deployment this flow only submits the job, which is a flow run like any other, and ends.

    Args:
        model: The registered model, whose card says how it is trained.
        config: How to train in place of what the card says; also where nothing is registered yet.
        organization: Whose job it is: its files, its runs and its models lie apart.
        deployment: The deployment that runs the job, as `flow/deployment`; none: it is run here.
        min_drift: The share of rows that must have come or gone, 0 to 1.

    Raises:
        MissingConfigError: Neither a model nor a config was given.
        NothingToRetrainError: There is no such model, and no config.
    """
    if config is None and model is None:
        raise MissingConfigError([Fault("model", "is required, or config")])
    name = model or model_name(config)  # type: ignore[arg-type]
    hub = open_hub(organization)
    version = _since(hub, name)
    card = fetch_lineage(hub, version) if version else None
    if config is None:
        if card is None:
            raise NothingToRetrainError(
                f"no version of {name} has a card that says how it is trained",
                hint="Give a config for the first time.",
            )
        config = card.pipeline_config()
    registry = config.registry.model_copy(update={"model_name": name})
    config = config.model_copy(update={"registry": registry})
    mark = f"retrain:{name}"
    found = Retraining(model=name, since=version.ref if version else None, changes=None)
    if deployment and (unfinished := _unfinished(deployment, [mark, f"org:{organization}"])):
        return _skip(found, f"{unfinished} has not ended yet")
    if version and card:
        folder = organization_folder(organization) / "retrainings" / name
        changes = find_changes(organization, config, version, folder)
        found = found.model_copy(update={"changes": changes})
        same = _settings(config) == _settings(card.pipeline_config())
        if changes and same and not changes.added and not changes.removed:
            return _skip(found, f"nothing has changed since {version.ref}")
        if changes and same and changes.drift < min_drift:
            drift = f"{changes.drift:.1%} of the rows have changed since {version.ref}"
            return _skip(found, f"{drift}, less than {min_drift:.1%}")
    job_id = new_job_id()
    if deployment:
        submit_job(deployment, config, organization, job_id, [mark])
    else:
        from flows.finetune import finetune

        finetune(config, organization, job_id)
    return found.model_copy(update={"job_id": job_id})


def _since(hub: Hub, name: str) -> Version | None:
    """The version to compare with: the champion, or else the newest."""
    known = (each for each in hub.versions(name) if not (each.is_deleted or each.is_base))
    return promotion.find(hub, name, CHAMPION) or next(known, None)


def _settings(config: PipelineConfig) -> dict[str, object]:
    """What a training depends on."""
    values = config.model_dump(mode="json", exclude={"registry": True})
    values["training"].pop("output_dir")
    return values


def _skip(found: Retraining, why: str) -> Retraining:
    get_run_logger().warning("%s is not trained anew: %s", found.model, why)
    return found.model_copy(update={"skipped": why})


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
