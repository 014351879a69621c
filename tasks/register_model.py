"""The task that registers the adapter."""

from prefect import task

from finetune_core.hub import open_hub
from finetune_core.hub.card import Card
from finetune_core.hub.registration import register
from finetune_core.hub.tracking import Tracking
from finetune_core.types import RegisteredVersion
from tasks.stage import STAGE, run_stage


@task(name="register", **STAGE)
def register_model(card: Card) -> RegisteredVersion:
    """Adapter, report and card → a version in the registry."""
    hub = open_hub(card.job.organization)
    return run_stage(
        card.job,
        "register",
        lambda _: register(hub, Tracking(hub, card.job), card),
        lambda version: f"{version.model_name}@{version.version} as {version.alias}",
    )
