"""/hub: the models and adapters of the organisation's registry: list, look at, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter, Depends, Query

from finetune_core.hub import open_hub
from finetune_service.api.pagination import Page, page
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.parameters import AfterAny
from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.exceptions import UnavailableError
from finetune_service.hub import AdapterRecord, Catalog, ModelRecord

TIMEOUT_SECONDS = 2.0

Limit = Annotated[int, Query(ge=1, le=1000)]
Force = Annotated[bool, Query(description="Delete it although an alias points there.")]

router = APIRouter(prefix="/hub", tags=["hub"])


class HubModel(Answer):
    """A model, as the client knows it."""

    id: str
    object: Literal["hub.model"] = "hub.model"
    name: str
    type: Literal["base", "fine-tuned"]
    origin: Literal["local", "remote"]
    created_at: int
    ref: str | None
    aliases: list[str]

    @classmethod
    def of(cls, record: ModelRecord) -> HubModel:
        """What a record says."""
        return cls(**record.model_dump())


class HubAdapter(Answer):
    """An adapter, as the client knows it."""

    id: str
    object: Literal["hub.adapter"] = "hub.adapter"
    model_id: str
    dataset: str | None
    created_at: int
    parameters: dict[str, Any]
    ref: str
    aliases: list[str]

    @classmethod
    def of(cls, record: AdapterRecord) -> HubAdapter:
        """What a record says."""
        return cls(**record.model_dump())


class DeletedFromHub(Answer):
    """What is said of something that was deleted."""

    id: str
    object: Literal["hub.model", "hub.adapter"]
    deleted: Literal[True] = True


def _catalog(organization: CurrentOrganization, services: CurrentServices) -> Catalog:
    url = services.settings.tracking_uri
    if url:
        # MLflow's own client would try for much longer to reach one that is away.
        try:
            httpx.get(f"{url.rstrip('/')}/health", timeout=TIMEOUT_SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            raise UnavailableError(f"MLflow does not answer: {type(error).__name__}") from error
    if services.workspaces.enabled:
        services.workspaces.ensure(organization)
    listed = services.jobs.base_models.listed()
    names = {str(folder): name for name, folder in listed.items()}
    return Catalog(open_hub(organization, services.settings), names)


CurrentCatalog = Annotated[Catalog, Depends(_catalog)]


@router.get("/models")
def list_models(
    catalog: CurrentCatalog, limit: Limit = 20, after: AfterAny = None
) -> Page[HubModel]:
    """List the models: whole ones, the newest first, and the bases of everything."""
    return page(map(HubModel.of, catalog.models(after)), limit)


@router.get("/models/{name:path}")
def get_model(name: str, catalog: CurrentCatalog) -> HubModel:
    """Look at a model."""
    return HubModel.of(catalog.model(name))


@router.delete("/models/{name:path}")
def delete_model(name: str, catalog: CurrentCatalog, force: Force = False) -> DeletedFromHub:
    """Delete a model, unless an alias points there."""
    catalog.delete_model(name, force=force)
    return DeletedFromHub(id=name, object="hub.model")


@router.get("/adapters")
def list_adapters(
    catalog: CurrentCatalog, limit: Limit = 20, after: AfterAny = None
) -> Page[HubAdapter]:
    """List the adapters, the newest first."""
    return page(map(HubAdapter.of, catalog.adapters(after)), limit)


@router.get("/adapters/{name:path}")
def get_adapter(name: str, catalog: CurrentCatalog) -> HubAdapter:
    """Look at an adapter."""
    return HubAdapter.of(catalog.adapter(name))


@router.delete("/adapters/{name:path}")
def delete_adapter(name: str, catalog: CurrentCatalog, force: Force = False) -> DeletedFromHub:
    """Delete an adapter, unless an alias points there."""
    catalog.delete_adapter(name, force=force)
    return DeletedFromHub(id=name, object="hub.adapter")
