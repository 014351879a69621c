"""The task that fetches registered versions, so that they can be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task

from finetune_core.hub import open_hub
from finetune_core.hub.bases import check_loads
from tasks.stage import STAGE


def is_registered(model: str) -> bool:
    """Whether a model is named as the hub does, NAME@VERSION or NAME@ALIAS, and is no folder."""
    return "@" in model and not Path(model).exists()


@task(name="fetch", **STAGE)
def fetch_models(models: Sequence[str], organization: str, folder: Path) -> dict[str, str]:
    """Names → what loads, by the name it has from now on: a version's is NAME@NUMBER.

    Args:
        models: NAME@VERSION, NAME@ALIAS, a folder, or an id on the hub of models.
        organization: Whose versions they are.
        folder: Gets a folder a version.

    Raises:
        VersionNotFoundError: There is no such version.
        ModelNotFoundError: It is a base that is registered by reference.
    """
    hub = open_hub(organization)
    found: dict[str, str] = {}
    for model in models:
        if not is_registered(model):
            found[model] = model
            continue
        name, _, number = model.rpartition("@")
        version = check_loads(hub.get(name, number))
        if version.ref not in found:
            found[version.ref] = str(hub.download(version, folder / version.ref))
    return found
