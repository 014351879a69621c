"""Where this installation keeps things and finds its servers: FINETUNE_* and the libraries' own."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LIBRARY_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A job without a server starts one of its own, on a busy machine not in Prefect's 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # or its lines reach the terminal past our handlers
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # One default MLflow call to a dead server blocks for 246 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "TOKENIZERS_PARALLELISM": "true",
    # How long a thread of torch's waits awake: by default so long that two jobs on the same cores
    # take ten times as long as one after the other. Alone, a job takes the same.
    "GOMP_SPINCOUNT": "5000",
}


def set_library_defaults() -> None:
    """Turns the libraries' telemetry off and their waiting short, unless the user said otherwise.

    They read these variables when they are imported, so this runs before any of them.
    """
    for name, value in LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)


class Settings(BaseSettings):
    """The settings of this installation, from the environment."""

    model_config = SettingsConfigDict(env_prefix="FINETUNE_", use_attribute_docstrings=True)

    home: Path = Path("~/.finetune")
    """Where caches, run folders and the local MLflow store lie."""

    defaults: Path | None = None
    """A file that takes the place of the shipped defaults and limits, field by field."""

    progress: bool = False
    """Whether a person watches standard error: the command line turns it on."""

    machine_rank: int | None = None
    """Which of a training's several machines this is, from 0 on."""

    main_address: str | None = None
    """Where the first of these machines is heard by the others, as `host:port`."""

    silence_minutes: float = Field(30, ge=0)
    """After so long without a word from a stage's process it is ended and tried again; 0: never."""

    tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    """MLflow's server; without it, an SQLite file and a folder under `home`."""

    mlflow_workspaces: bool = False
    """Whether an organisation has a workspace and a user of its own on that server."""

    signing_key: Path | None = None
    """A file with the Ed25519 key, as PEM, that signs what is registered; only its owner reads
    it."""

    verify_key: Path | None = None
    """A file with the public key that signatures must be of; without it, that of our own key."""

    def organization_folder(self, organization: str) -> Path:
        """The folder of one organisation: its cache and its jobs, and nobody else's."""
        return self.home.expanduser().absolute() / "organizations" / organization
