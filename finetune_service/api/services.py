"""What the routes work with, made once for an app."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Request

from finetune_service.api.settings import ApiSettings
from finetune_service.files import FileStore, Uploads, Validations
from finetune_service.jobs import Jobs, JobService
from finetune_service.jobs.base_models import BaseModels
from finetune_service.jobs.keeper import Keeper
from finetune_service.jobs.prefect_client import PrefectClient
from finetune_service.jobs.scheduler import Scheduler
from finetune_service.jobs.store import JobStore
from finetune_service.jobs.webhooks import Webhooks
from finetune_service.organizations import Organizations
from finetune_service.organizations.mlflow_workspace import Workspaces

GATEWAY_TIMEOUT = httpx.Timeout(30, connect=3, pool=10)


@dataclass
class Services:
    """The services of an app. None keeps a state that another process would miss."""

    settings: ApiSettings
    organizations: Organizations
    files: FileStore
    uploads: Uploads
    validations: Validations
    jobs: Jobs
    keeper: Keeper
    workspaces: Workspaces
    gateway: httpx.AsyncClient
    """Asks MLflow what people ask it through us."""

    @classmethod
    def open(cls, settings: ApiSettings) -> Services:
        """Makes them as the settings say."""
        files = FileStore(settings.home, settings.files_url)
        uploads = Uploads(files, settings.max_file_bytes)
        prefect = PrefectClient(settings.prefect_url, settings.prefect_auth)
        jobs = Jobs(
            store=JobStore(settings.home),
            files=files,
            scheduler=Scheduler(prefect, f"finetune/{settings.pool}"),
            base_models=BaseModels(settings.base_models),
            limit=settings.organization_jobs,
        )
        files.in_use = jobs.uses
        webhooks = Webhooks(settings.home, internal=settings.webhooks_internal)
        return cls(
            settings=settings,
            organizations=Organizations(settings.home),
            files=files,
            uploads=uploads,
            validations=Validations(files, uploads, settings.validations),
            jobs=jobs,
            keeper=Keeper(jobs, webhooks, settings.home),
            workspaces=Workspaces(settings),
            gateway=httpx.AsyncClient(
                base_url=settings.tracking_uri or "", timeout=GATEWAY_TIMEOUT, trust_env=False
            ),
        )

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Does the work in the background while an app is served."""
        self.validations.start()
        self.keeper.start()
        if self.workspaces.enabled:
            keeping = threading.Thread(
                target=self.workspaces.run, args=[self.organizations], daemon=True
            )
            keeping.start()
        yield
        # Those that wait are submitted by the next keeper.
        self.jobs.submissions.shutdown(wait=False, cancel_futures=True)
        self.keeper.stop()
        self.workspaces.stop()
        self.validations.stop()
        await self.gateway.aclose()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _organization(request: Request) -> str:
    organization: str = request.state.organization
    return organization


def _jobs(request: Request) -> JobService:
    return _services(request).jobs.of(_organization(request))


CurrentServices = Annotated[Services, Depends(_services)]
CurrentOrganization = Annotated[str, Depends(_organization)]
CurrentJobs = Annotated[JobService, Depends(_jobs)]
