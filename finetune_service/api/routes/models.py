"""/models: the base models, and those that the organisation's jobs have made."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from finetune_core.hub import open_hub
from finetune_service.api.schemas.answer import Answer
from finetune_service.api.schemas.parameters import content
from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.exceptions import ConflictError
from finetune_service.jobs.models import Model as MadeModel
from finetune_service.jobs.models import Models

router = APIRouter(prefix="/models", tags=["models"])


class Model(Answer):
    """A model, as the client knows it. `job_id`, `version` and `base_model` are ours."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    base_model: str | None = None
    job_id: str | None = None
    version: str | None = None

    @classmethod
    def of(cls, model: MadeModel) -> Model:
        """What is known of a model that a job has made."""
        registered = model.outcome.registered
        return cls(
            id=model.id,
            created=int(model.outcome.finished_at),
            owned_by=model.record.organization,
            base_model=model.record.model,
            job_id=model.record.id,
            version=f"{registered.model_name}@{registered.version}" if registered else None,
        )


class ModelList(Answer):
    """All models; the client knows no pages of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class DeletedModel(Answer):
    """What is said of a model that was deleted."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelFile(Answer):
    """One file of a model."""

    name: str
    object: Literal["model.file"] = "model.file"
    bytes: int
    sha256: str


class ModelFiles(Answer):
    """The files of a model."""

    object: Literal["list"] = "list"
    data: list[ModelFile]


def _models(organization: CurrentOrganization, services: CurrentServices) -> Models:
    return Models(services.jobs.store, organization)


CurrentModels = Annotated[Models, Depends(_models)]


@router.get("")
def list_models(models: CurrentModels, services: CurrentServices) -> ModelList:
    """List the base models that the operator offers, then the organisation's own."""
    return ModelList(data=[*_bases(services), *map(Model.of, models.list())])


# A model's id may have slashes in it, as `%2F` or plain, so what follows an id is looked for first.
@router.get("/{model:path}/files")
def list_model_files(model: str, models: CurrentModels) -> ModelFiles:
    """List the files of a model that a job has made, with their digests."""
    files = models.files(models.get(model))
    return ModelFiles(data=[ModelFile(**each._asdict()) for each in files])


@router.get(
    "/{model:path}/content", response_class=StreamingResponse, responses=content("application/zip")
)
def get_model_content(model: str, models: CurrentModels) -> StreamingResponse:
    """Download all files of a model that a job has made, as one zip."""
    found = models.get(model)
    name = quote(f"{found.record.name}-{found.record.short}.zip", safe="")
    return StreamingResponse(
        models.archive(found),
        media_type="application/zip",
        headers={
            "Content-Disposition": f"attachment; filename*=utf-8''{name}",
            "X-Content-Type-Options": "nosniff",
        },
    )


@router.get("/{model:path}")
def get_model(model: str, models: CurrentModels, services: CurrentServices) -> Model:
    """Look at a model."""
    bases = {each.id: each for each in _bases(services)}
    return bases[model] if model in bases else Model.of(models.get(model))


@router.delete("/{model:path}")
def delete_model(
    model: str,
    models: CurrentModels,
    organization: CurrentOrganization,
    services: CurrentServices,
) -> DeletedModel:
    """Delete a model that a job has made: its version in the hub, and its files."""
    if any(each.id == model for each in _bases(services)):
        raise ConflictError(f"{model} is a base model, which the operator offers to everybody.")
    found = models.get(model)
    if services.workspaces.enabled:
        services.workspaces.ensure(organization)
    models.delete(found, open_hub(organization, services.settings))
    return DeletedModel(id=model)


def _bases(services: CurrentServices) -> list[Model]:
    bases = services.jobs.base_models
    return [
        Model(id=name, created=bases.created(), owned_by="operator")
        for name in sorted(bases.listed())
    ]
