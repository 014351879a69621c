"""An MLflow server that keeps organisations apart, as the stack starts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_service.stack.parts import MLFLOW_AUTH
from tests.integration.conftest import free_port, serving

ADMIN = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "the-admin-s-password"}


@contextmanager
def workspaces_server(folder: Path, port: int | None = None) -> Iterator[dict[str, str]]:
    """Gives the environment in which the API, and nobody else, is the server's admin."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    ini = folder / "auth.ini"
    ini.write_text(
        MLFLOW_AUTH.format(database=f"sqlite:///{folder / 'auth.db'}", admin="admin", seconds=60)
    )
    url = f"http://127.0.0.1:{port}"
    with serving(
        "MLflow", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1,
        "--app-name", "basic-auth", "--enable-workspaces",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", folder / "artifacts",
        health=f"{url}/health",
        MLFLOW_AUTH_CONFIG_PATH=str(ini),
        MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN["MLFLOW_TRACKING_PASSWORD"],
        MLFLOW_FLASK_SERVER_SECRET_KEY="a key of the tests",
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    ):  # fmt: skip
        yield {"MLFLOW_TRACKING_URI": url, "FINETUNE_MLFLOW_WORKSPACES": "true", **ADMIN}
