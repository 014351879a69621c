"""Where the API is, and the key that it is asked with: FINETUNE_API_URL, FINETUNE_API_KEY."""

from __future__ import annotations

from pydantic import SecretStr

from finetune_core.config.settings import Settings


class SdkSettings(Settings):
    """The settings of the SDK and of the command line, from the environment."""

    api_url: str | None = None
    """The API, as https://finetune.example.org; without it, jobs run on this machine."""

    api_key: SecretStr | None = None
    """The key of an organisation: sk-ft-…"""
