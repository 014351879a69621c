"""GET /health: whether the API works, and what it depends on."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import httpx
from fastapi import APIRouter, Request

from finetune_core import __version__
from finetune_service.api.schemas.answer import Answer

TIMEOUT_SECONDS = 0.4
FRESH_SECONDS = 2.0
STALE_SECONDS = 10.0  # for so long, who asks need not wait while somebody else asks the servers

State = Literal["ok", "unreachable", "not configured"]

router = APIRouter(tags=["health"])


class Health(Answer):
    """`degraded` means that the API answers, but something that it needs does not."""

    status: Literal["ok", "degraded"]
    version: str
    prefect: State
    mlflow: State


class HealthCheck:
    """Asks the servers, and remembers their answer for a moment.

    So those who may ask without a key cannot make us ask the servers without end.

    Args:
        prefect_url: Prefect's API.
        mlflow_url: MLflow's server.
    """

    def __init__(self, prefect_url: str | None, mlflow_url: str | None) -> None:
        self._urls = (prefect_url, mlflow_url)
        self._asking = asyncio.Lock()
        self._known: tuple[float, Health] | None = None
        self._tls = httpx.create_ssl_context(trust_env=False)  # takes longer than all the rest

    async def health(self) -> Health:
        """The health as it was at most `FRESH_SECONDS` ago, or a little more among many."""
        if self._asking.locked() and (health := self._known_for(STALE_SECONDS)):
            return health
        async with self._asking:
            if health := self._known_for(FRESH_SECONDS):
                return health
            async with httpx.AsyncClient(
                timeout=TIMEOUT_SECONDS, trust_env=False, verify=self._tls
            ) as client:
                prefect, mlflow = await asyncio.gather(*(_state(client, url) for url in self._urls))
            status: Literal["ok", "degraded"] = (
                "degraded" if "unreachable" in (prefect, mlflow) else "ok"
            )
            health = Health(status=status, version=__version__, prefect=prefect, mlflow=mlflow)
            self._known = (time.monotonic(), health)
            return health

    def _known_for(self, seconds: float) -> Health | None:
        """What was found, unless that is longer ago."""
        if self._known and time.monotonic() < self._known[0] + seconds:
            return self._known[1]
        return None


@router.get("/health")
async def get_health(request: Request) -> Health:
    """Say whether the API works, and what it depends on. Needs no key."""
    check: HealthCheck = request.app.state.health
    return await check.health()


async def _state(client: httpx.AsyncClient, url: str | None) -> State:
    if not url or not url.startswith("http"):
        return "not configured"
    try:
        # The clock counts from the start: each step of a connection has a timeout of its own.
        asking = client.get(f"{url.rstrip('/')}/health")
        answer = await asyncio.wait_for(asking, TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError):
        return "unreachable"
    return "ok" if answer.is_success else "unreachable"
