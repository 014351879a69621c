"""Register: adapter, report and card → a version in the registry."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_core.hub.card import Card, write_card
from finetune_core.hub.ports import Hub, NewVersion
from finetune_core.hub.tracking import Tracking
from finetune_core.storage import MANIFEST, RECORD, is_whole, new_folder
from finetune_core.types import RegisteredVersion


def register(hub: Hub, tracking: Tracking, card: Card) -> RegisteredVersion:
    """Registers a job's adapter; registering it again gives the version that it has.

    Args:
        hub: The registry.
        tracking: The job's; what the hub has missed so far is told first.
        card: What there is to say of the adapter.

    Raises:
        HubUnavailableError: The hub is away.
    """
    tracking.insist()
    tracking.tell_config(card.config)
    tracking.tell_data(card.config, card.clean, card.tokens)
    tracking.tell_training(card.trained)
    tracking.tell_report(card.report)
    name = card.job.name
    folder = card.job.folder / "package"
    if not is_whole(folder):
        with new_folder(folder) as temporary:
            _pack(card, name, temporary)
    run_id = tracking.run_id()
    method = card.config.training.method.value
    new = NewVersion(
        model_name=name,
        alias=card.config.registry.alias,
        model_type=method,
        tags=card.tags,
        description=card.description,
    )
    version = hub.register(run_id, folder, new)
    return RegisteredVersion(
        folder=folder,
        model_name=version.model_name,
        version=version.version,
        alias=card.config.registry.alias,
        uri=version.uri,
        run_id=run_id,
    )


def _pack(card: Card, name: str, folder: Path) -> None:
    for file in card.chosen.folder.iterdir():
        if file.name not in (MANIFEST, RECORD):
            shutil.copy2(file, folder)
    write_card(card, name, folder / "README.md")
    shutil.copy2(card.report.markdown, folder / "evaluation.md")
    shutil.copy2(card.job.folder / "config.yaml", folder / "config.yaml")
