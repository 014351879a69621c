"""The task that registers the adapter."""

from prefect import task

from finetune_core.hub import open_hub
from finetune_core.hub.card import Card
from finetune_core.hub.registration import register
from finetune_core.hub.tracking import Tracking
from finetune_core.types import RegisteredVersion
from tasks.stage import STAGE, run_stage, worth_a_retry


@task(
    name="register",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=worth_a_retry,
    **STAGE,
)
def register_model(card: Card) -> RegisteredVersion:
    """Adapter, report and card → a version in the registry."""
    hub = open_hub(card.job.organization)
    return run_stage(
        card.job,
        "register",
        lambda _: register(hub, Tracking(hub, card.job), card),
        lambda version: f"{version.model_name}@{version.version} as {version.alias}",
    )
