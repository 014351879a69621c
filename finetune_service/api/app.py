"""create_app: the API as an ASGI app."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.middleware import Middleware

from finetune_core import __version__
from finetune_service.api import errors
from finetune_service.api.middleware import Authentication, BodyLimit, RequestId
from finetune_service.api.multipart import OVERHEAD_BYTES
from finetune_service.api.routes import (
    files,
    fine_tuning,
    health,
    hub,
    hub_versions,
    mlflow_gateway,
    models,
    uploads,
)
from finetune_service.api.services import Services
from finetune_service.api.settings import ApiSettings
from finetune_service.files.uploads import PART_BYTES

ROUTERS: tuple[APIRouter, ...] = (
    files.router,
    uploads.router,
    fine_tuning.router,
    models.router,
    hub.router,
    hub_versions.router,
)
"""The routes that need a key; each stands under /v1 and without it."""


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Makes the app; `uvicorn finetune_service.api.app:create_app --factory` serves it.

    Args:
        settings: Where things are; from the environment where not given.
    """
    settings = settings or ApiSettings()
    services = Services.open(settings)
    app = FastAPI(
        title="Fine-tuning service",
        version=__version__,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        lifespan=services.running,
        responses=errors.RESPONSES,
        generate_unique_id_function=_operation_id,
        middleware=[
            Middleware(RequestId),
            Middleware(
                Authentication,
                organizations=services.organizations,
                limiter=SlidingWindowCounterRateLimiter(MemoryStorage()),
                rate=parse(settings.rate_limit),
            ),
            Middleware(BodyLimit, limit_of=_body_limit(settings)),
        ],
    )
    app.state.services = services
    app.state.health = health.HealthCheck(settings.prefect_url, settings.tracking_uri)
    errors.add_handlers(app)
    # The key was looked at before; this tells the page about it.
    key = [Depends(HTTPBearer(auto_error=False, description="A key: sk-ft-…"))]
    for prefix, shown in (("/v1", True), ("", False)):
        app.include_router(health.router, prefix=prefix, include_in_schema=shown)
        for router in ROUTERS:
            app.include_router(
                router,
                prefix=prefix,
                include_in_schema=shown,
                dependencies=key,
                responses=errors.KEYED,
            )
    app.include_router(mlflow_gateway.router)
    logging.getLogger("uvicorn.access").addFilter(_without_keys)
    return app


def _operation_id(route: APIRoute) -> str:
    """What a generated client calls an operation."""
    return re.sub(r"\W", "_", "_".join([*map(str, route.tags), route.name]))


def _body_limit(settings: ApiSettings) -> Callable[[str, str], int]:
    """The bytes that a request may have, by its method and path."""

    def limit(method: str, path: str) -> int:
        if method == "POST" and re.fullmatch(r"(/v1)?/files", path):
            return settings.max_file_bytes + OVERHEAD_BYTES
        if method == "POST" and re.fullmatch(r"(/v1)?/uploads/[^/]+/parts", path):
            return PART_BYTES + OVERHEAD_BYTES
        if method == "PUT" and path.startswith(mlflow_gateway.ARTIFACTS):
            return settings.max_file_bytes
        return settings.max_request_bytes

    return limit


def _without_keys(record: logging.LogRecord) -> bool:
    """Keeps keys out of the access log, where somebody has put one into a path or a query."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            re.sub(r"sk-ft-[\w-]+", "sk-ft-…", value) if isinstance(value, str) else value
            for value in record.args
        )
    return True
