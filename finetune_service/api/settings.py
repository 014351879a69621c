"""What of this installation the API needs to know, from the environment: FINETUNE_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from finetune_core.config.settings import Settings
from finetune_service.stack.settings import has_gpu


class ApiSettings(Settings):
    """The settings of the API, beside those of the installation."""

    api_host: str = "127.0.0.1"
    """The address that the API listens at."""

    api_port: int = 8000
    """The port that it listens at."""

    files_url: str | None = None
    """Where uploaded files are kept, as a URL that fsspec knows; without it, under `home`."""

    max_file_bytes: int = Field(1_000_000_000, ge=1)
    """The bytes that one uploaded file may have."""

    max_request_bytes: int = Field(2_000_000, ge=1)
    """The bytes that any other request may have: these are held in memory."""

    rate_limit: str = "6000/minute"
    """The requests of one key to one API process, in the notation of `limits`."""

    validations: int = Field(1, ge=1)
    """The uploaded files that are checked at once, each by a process of its own."""

    pool: str = Field(default_factory=lambda: "gpu" if has_gpu() else "cpu")
    """The work pool that jobs run on: the deployment `finetune/<pool>`."""

    base_models: Path | None = None
    """The base models that jobs may name beside a hub's: YAML, a folder for each name."""

    organization_jobs: int | None = Field(None, ge=1)
    """The jobs of one organisation that may be queued and running at once; others wait."""

    webhooks_internal: bool = False
    """Whether webhooks may lead to this machine, into its network, and be plain http."""

    prefect_url: str | None = Field(None, validation_alias="PREFECT_API_URL")
    """Prefect's API."""

    prefect_auth: SecretStr | None = Field(None, validation_alias="PREFECT_API_AUTH_STRING")
    """What Prefect asks its clients for, as user:password."""
