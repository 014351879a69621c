"""The parts of the stack: what starts each, with which environment, and where it answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy.engine import URL

from finetune_core.config.settings import LIBRARY_DEFAULTS, Settings
from finetune_service.api.settings import ApiSettings
from finetune_service.stack import postgres
from finetune_service.stack.settings import PREFIX, StackSettings, write_private

POSTGRES, PREFECT, MLFLOW, API, WORKER = "postgres", "prefect", "mlflow", "api", "worker-"
MLFLOW_ADMIN = "admin"
PREFECT_USER = "admin"
# Found in every process of a stack, so that none is overlooked when its supervisor was killed.
MARK = "FINETUNE_STACK"
TELEMETRY = ("PREFECT_SERVER_ANALYTICS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
# The stack's own settings, so that changing one restarts no worker with its jobs; and that
# somebody watches, which of a worker nobody does; and whose key a person has at some API.
NOT_PASSED = {
    PREFIX + name.upper()
    for name in (*StackSettings.__annotations__, "progress", "api_url", "api_key")
}
HEARTBEAT_SECONDS = 30  # of a flow run; Prefect takes no fewer
AUTH_CACHE_SECONDS = 60  # without it each call to MLflow hashes a password for 0.4 s

MLFLOW_AUTH = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
auth_cache_ttl_seconds = {seconds}
"""


class Part(NamedTuple):
    """One program of the stack."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    address: str = ""
    health: str = ""
    """The URL that answers 200 when the part is healthy; a worker and PostgreSQL have none."""
    host: str = ""
    """What it listens on, at `port`."""
    port: int | None = None
    setting: str = ""
    """The setting of its port."""
    user: str | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 20
    """How long it may take to end."""

    @property
    def pool(self) -> str | None:
        """The work pool of a worker."""
        return self.name.removeprefix(WORKER) if self.name.startswith(WORKER) else None


def parts(settings: StackSettings, server: URL | None) -> list[Part]:
    """All parts, in the order in which they need each other.

    Args:
        settings: What the stack is told.
        server: The PostgreSQL server of both; None is SQLite.
    """
    found = []
    if server is not None and settings.database_url is None:
        found.append(_postgres(settings))
    found += [_prefect(settings, server), _mlflow(settings, server), _api(settings)]
    return found + [_worker(settings, pool) for pool in settings.pools]


def client_environment(settings: StackSettings) -> dict[str, str]:
    """What a process needs to use the stack: addresses, Prefect's password, where files lie."""
    told = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name not in NOT_PASSED
    }
    return {
        **told,
        **_common(settings),
        "FINETUNE_HOME": str(settings.home),
        "FINETUNE_SOURCE": str(settings.source),
        "PREFECT_API_URL": f"{settings.address(settings.prefect_port)}/api",
        "PREFECT_API_AUTH_STRING": prefect_auth(settings),
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "MLFLOW_TRACKING_URI": settings.address(settings.mlflow_port),
        "FINETUNE_MLFLOW_WORKSPACES": "true",
    }


def prefect_auth(settings: StackSettings) -> str:
    """What Prefect's server asks its clients for, as `user:password`."""
    return f"{PREFECT_USER}:{settings.secret('prefect-password')}"


def database_name(settings: StackSettings, server: URL | None) -> str:
    """The database's kind and place, without a password."""
    if server is None:
        return "SQLite (single user)"
    if settings.database_url is None:
        return "PostgreSQL, private"
    return f"PostgreSQL at {server.host or 'a socket'}{f':{server.port}' if server.port else ''}"


def _common(settings: StackSettings) -> dict[str, str]:
    return {
        **{name: LIBRARY_DEFAULTS[name] for name in TELEMETRY},
        MARK: str(settings.folder),
        "PREFECT_HOME": str(settings.folder / "prefect"),
        "PYTHONUNBUFFERED": "1",
    }


def _postgres(settings: StackSettings) -> Part:
    cluster = postgres.Cluster(settings)
    return Part(
        POSTGRES,
        cluster.command(),
        {MARK: str(settings.folder)},
        address=str(cluster.socket),
        user=cluster.owner.name if cluster.owner else None,
        stop_signal="INT",  # ends connections; TERM would wait for them
    )


def _prefect(settings: StackSettings, server: URL | None) -> Part:
    address = settings.address(settings.prefect_port)
    port = str(settings.prefect_port)
    environment = {
        **_common(settings),
        "PREFECT_SERVER_API_AUTH_STRING": prefect_auth(settings),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
        # The second UI asks a third party for its settings at every page.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    if server is not None:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = postgres.database_url(
            server, postgres.PREFECT, "postgresql+asyncpg"
        )
    return Part(
        PREFECT,
        [*_python("prefect"), "server", "start", "--host", settings.host, "--port", port],
        environment,
        address=address,
        health=f"{address}/api/health",
        host=settings.host,
        port=settings.prefect_port,
        setting="FINETUNE_PREFECT_PORT",
    )


def _mlflow(settings: StackSettings, server: URL | None) -> Part:
    folder = settings.home / "mlflow"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    address = settings.address(settings.mlflow_port)
    # one worker: more cost 0.8 GB each and 45 ms a call
    command = [*_python("mlflow"), "server", "--workers", "1", "--app-name", "basic-auth"]
    command += ["--enable-workspaces", "--host", settings.host]
    command += ["--port", str(settings.mlflow_port)]
    if settings.mlflow_allowed_hosts:
        command += ["--allowed-hosts", settings.mlflow_allowed_hosts]
    if server is None:
        store, auth = (f"sqlite:///{folder / file}.db" for file in ("mlflow", "auth"))
    else:
        store = postgres.database_url(server, postgres.MLFLOW)
        auth = postgres.database_url(server, postgres.MLFLOW_AUTH)
    ini = settings.folder / "mlflow-auth.ini"
    escaped = auth.replace("%", "%%")
    write_private(
        ini,
        MLFLOW_AUTH.format(database=escaped, admin=MLFLOW_ADMIN, seconds=AUTH_CACHE_SECONDS),
    )
    return Part(
        MLFLOW,
        command,
        {
            **_common(settings),
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_AUTH_ADMIN_PASSWORD": settings.secret("mlflow-password"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.secret("mlflow-flask-key"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        address=address,
        health=f"{address}/health",
        host=settings.host,
        port=settings.mlflow_port,
        setting="FINETUNE_MLFLOW_PORT",
    )


def _api(settings: StackSettings) -> Part:
    host = settings.api_host or settings.host
    own = {
        "FINETUNE_API_HOST": host,
        "FINETUNE_API_PORT": str(settings.api_port),
        # It makes the organisations' workspaces; jobs are their organisation's own user.
        "MLFLOW_TRACKING_USERNAME": MLFLOW_ADMIN,
        "MLFLOW_TRACKING_PASSWORD": settings.secret("mlflow-password"),
    }
    return Part(
        API,
        _python("finetune_service.api"),
        client_environment(settings) | own,
        address=settings.api_address,
        health=f"{settings.api_address}/health",
        host=host,
        port=settings.api_port,
        setting="FINETUNE_API_PORT",
    )


def _worker(settings: StackSettings, pool: str) -> Part:
    return Part(
        f"{WORKER}{pool}",
        [
            *(*_python("finetune_service.stack.worker"), "--pool", pool, "--name", pool),
            *("--limit", str(settings.worker_limit)),
            *("--grace", str(settings.worker_grace_seconds)),
        ],
        {
            **_without_api(client_environment(settings)),
            "PREFECT_WORKER_QUERY_SECONDS": str(settings.worker_query_seconds),
            # Its jobs inherit it: a lost one is known by its silence (automations.py).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        },
        address=f"pool {pool}",
        stop_seconds=settings.worker_stop_seconds,
    )


def _without_api(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the API's settings, so that changing one restarts no worker."""
    own = ApiSettings.model_fields.keys() - Settings.model_fields.keys()
    names = {PREFIX + name.upper() for name in own}
    return {name: value for name, value in environment.items() if name not in names}


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]
