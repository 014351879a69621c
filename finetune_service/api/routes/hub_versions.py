"""/hub, of versions: promote, roll back, compare, verify, download, bring back, forget."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from finetune_service.api.routes.hub import CurrentCatalog
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.parameters import content
from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.hub.versions import (
    HistoryEntry,
    TreeNode,
    VersionComparison,
    VersionRecord,
    Versions,
)
from finetune_service.jobs.models import zip_of
from finetune_service.jobs.paths import without_paths

router = APIRouter(prefix="/hub", tags=["hub"])


class HubVersion(Answer):
    """A registered version, and the aliases that point to it."""

    object: Literal["hub.version"] = "hub.version"
    ref: str
    aliases: list[str]
    created_at: int

    @classmethod
    def of(cls, record: VersionRecord) -> HubVersion:
        """What a record says."""
        return cls(**record.model_dump())


class HubHistory(Answer):
    """What happened to a model's versions, the last thing first."""

    object: Literal["list"] = "list"
    data: list[HistoryEntry]


class HubTree(Answer):
    """The bases, and what was made of each."""

    object: Literal["list"] = "list"
    data: list[TreeNode]


class Purged(Answer):
    """What is said of a version that was forgotten."""

    ref: str
    object: Literal["hub.version"] = "hub.version"
    purged: Literal[True] = True


def _versions(catalog: CurrentCatalog) -> Versions:
    return catalog.versions


CurrentVersions = Annotated[Versions, Depends(_versions)]


@router.get("/tree")
def get_tree(versions: CurrentVersions) -> HubTree:
    """Show the base models, and what was made of each, by domain and task."""
    return HubTree(data=versions.tree())


@router.get("/compare")
def compare_versions(
    versions: CurrentVersions, first: Annotated[str, Query()], second: Annotated[str, Query()]
) -> VersionComparison:
    """Show two versions' metrics side by side, and in which settings they differ."""
    return versions.compare(first, second)


@router.get("/history/{model}")
def get_history(model: str, versions: CurrentVersions) -> HubHistory:
    """Tell what happened to a model's versions."""
    return HubHistory(data=versions.history(model))


@router.post("/rollback/{model}")
def rollback(model: str, versions: CurrentVersions) -> HubVersion:
    """Make the champion before this one the champion again."""
    return HubVersion.of(versions.rollback(model))


@router.post("/versions/{ref}/promote")
def promote(ref: str, versions: CurrentVersions) -> HubVersion:
    """Make a version the champion by hand."""
    return HubVersion.of(versions.promote(ref))


@router.post("/versions/{ref}/undelete")
def undelete(ref: str, versions: CurrentVersions) -> HubVersion:
    """Bring a deleted version back."""
    return HubVersion.of(versions.undelete(ref))


@router.delete("/versions/{ref}")
def purge(ref: str, versions: CurrentVersions) -> Purged:
    """Forget a deleted version for good."""
    versions.purge(ref)
    return Purged(ref=ref)


@router.get("/versions/{ref}/card")
def get_card(
    ref: str,
    versions: CurrentVersions,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> dict[str, Any]:
    """Look at a version's lineage card."""
    return _shown(versions.card(ref).model_dump(mode="json"), organization, services)


@router.get("/versions/{ref}/verification")
def get_verification(
    ref: str,
    versions: CurrentVersions,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> dict[str, Any]:
    """Recompute every digest of a version's card."""
    return _shown(versions.verify(ref).model_dump(mode="json"), organization, services)


@router.get(
    "/versions/{ref}/content",
    response_class=StreamingResponse,
    responses=content("application/zip"),
)
def get_content(
    ref: str,
    versions: CurrentVersions,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> StreamingResponse:
    """Download a version's files, each checked against the card, as one zip."""
    found = versions.find(ref)
    home = services.settings.organization_folder(organization)
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=home, prefix=".download-"))
    try:
        folder = versions.download(found.ref, temporary / "package")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return StreamingResponse(
        zip_of([(str(each.relative_to(folder)), each) for each in files]),
        background=BackgroundTask(shutil.rmtree, temporary, ignore_errors=True),
        media_type="application/zip",
        headers={
            "Content-Disposition": f'attachment; filename="{found.ref}.zip"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def _shown(value: dict[str, Any], organization: str, services: CurrentServices) -> dict[str, Any]:
    """A card as others may read it: without where things lie on the server."""
    home = services.settings.organization_folder(organization)
    found: dict[str, Any] = without_paths(value, home)
    return found
