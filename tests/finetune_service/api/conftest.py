"""One API for the tests that do not end it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import openai
import pytest

from tests.finetune_service.api.mlflow_server import workspaces_server
from tests.finetune_service.api.server import Server, served

# schemathesis has left Python 3.10.
collect_ignore = ["test_schema.py"] if sys.version_info < (3, 11) else []


@pytest.fixture(scope="session")
def api(tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("api") / "home"
    home.mkdir()
    (home / "needed").touch()
    with served(
        home,
        "tests.finetune_service.api.busy:create_app",
        FINETUNE_MAX_FILE_BYTES="1000000",
        # Nothing is there, as the tests are without Prefect and MLflow.
        PREFECT_API_URL="http://127.0.0.1:9/api",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def client(api) -> openai.OpenAI:
    return api.client("acme")


@pytest.fixture(scope="session")
def stranger(api) -> openai.OpenAI:
    """The client of another organisation."""
    return api.client("other")


@pytest.fixture(scope="session")
def tracked(tmp_path_factory) -> Iterator[Server]:
    """An API with an MLflow server behind it that keeps organisations apart."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "home").mkdir()
    with (
        workspaces_server(folder / "mlflow") as environment,
        served(folder / "home", **environment) as server,
    ):
        server.mlflow = environment["MLFLOW_TRACKING_URI"]
        yield server
