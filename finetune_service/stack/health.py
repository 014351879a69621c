"""How the parts of the stack are: asked while it starts, and by `status`."""

from __future__ import annotations

import time
from importlib.metadata import version

import httpx
from pydantic import BaseModel
from sqlalchemy.engine import URL

import finetune_core
from finetune_service.jobs.prefect_client import PREFECT_ERRORS
from finetune_service.stack import postgres
from finetune_service.stack.parts import API, MLFLOW, POSTGRES, PREFECT, Part, database_name
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.processes import memory
from finetune_service.stack.settings import StackSettings
from finetune_service.stack.supervision import Supervisor

ANSWER_SECONDS = 5.0
HEARTBEATS_SECONDS = 90.0  # three of a worker's


class PartStatus(BaseModel):
    """One part: how it is, what it is, where it is."""

    name: str
    health: str
    """healthy, starting, failing (ended by itself), unhealthy (does not answer) or stopped."""
    version: str
    address: str
    pid: int | None = None
    memory_mb: int = 0
    up_seconds: int = 0


class PoolStatus(BaseModel):
    """One work pool: how many runs are due and wait, and how many are at work."""

    name: str
    waiting: int
    running: int
    paused: bool


class StackStatus(BaseModel):
    """The whole stack."""

    running: bool
    """Whether every part is healthy."""
    database: str
    parts: list[PartStatus]
    pools: list[PoolStatus]


def look(settings: StackSettings, parts: list[Part], server: URL | None) -> StackStatus:
    """Asks every part how it is."""
    supervisor = Supervisor(settings)
    states = supervisor.states()
    found = []
    for part in parts:
        state = states.get(part.name)
        status = PartStatus(
            name=part.name, health="stopped", version=_version(part), address=part.address
        )
        if state and state.failed:
            status.health = "failing"
        elif state and state.running:
            young = time.time() - state.started < settings.start_seconds
            ill = "starting" if young else "unhealthy"
            status.health = "healthy" if healthy(settings, part, server, state.started) else ill
            status.pid = state.pid
            status.memory_mb = memory(state.pid) // 1_000_000
            status.up_seconds = max(0, int(time.time() - state.started))
        found.append(status)
    return StackStatus(
        running=all(each.health == "healthy" for each in found),
        database=database_name(settings, server),
        parts=found,
        pools=_pools(settings) if _is(found, PREFECT) else [],
    )


def healthy(settings: StackSettings, part: Part, server: URL | None, started: float) -> bool:
    """Whether a part that was started at some time does its work."""
    if part.name == POSTGRES:
        return server is not None and postgres.answers(server)
    if part.pool:
        return _worker_lives(settings, part.pool, started)
    try:
        answer = httpx.get(part.health, timeout=ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success


def _worker_lives(settings: StackSettings, pool: str, started: float) -> bool:
    try:
        with PrefectApi(settings) as prefect:
            seen = prefect.worker_seen(pool)
    except PREFECT_ERRORS:
        return False
    # The heartbeat of one that ran before says nothing; supervisor's times are whole seconds.
    return seen is not None and seen >= started and time.time() - seen < HEARTBEATS_SECONDS


def _pools(settings: StackSettings) -> list[PoolStatus]:
    with PrefectApi(settings) as prefect:
        return [
            PoolStatus(
                name=pool["name"],
                waiting=prefect.waiting(pool["name"]),
                running=prefect.at_work(pool["name"]),
                paused=pool["is_paused"],
            )
            for pool in prefect.pools()
        ]


def _is(found: list[PartStatus], name: str) -> bool:
    return any(each.name == name and each.health == "healthy" for each in found)


def _version(part: Part) -> str:
    """The version of what is installed, which is what a part runs."""
    if part.name == POSTGRES:
        return postgres.version_of(part.command[0])
    if part.name == API:
        return finetune_core.__version__
    return version("mlflow" if part.name == MLFLOW else "prefect")
