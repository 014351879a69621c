"""What of this installation the providers need to know, from the environment: FINETUNE_*."""

from __future__ import annotations

from limits import RateLimitItem, parse

from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError


class ProviderSettings(Settings):
    """The settings of the providers, beside those of the installation."""

    provider_rate_limit: str = "60/minute"
    """The requests that one process makes of one provider, in the notation of `limits`."""

    def rate(self) -> RateLimitItem:
        """The limit.

        Raises:
            InvalidConfigError: It is none.
        """
        try:
            return parse(self.provider_rate_limit)
        except ValueError:
            problem = f"must be as 60/minute (got {self.provider_rate_limit!r})"
            raise InvalidConfigError([Fault("FINETUNE_PROVIDER_RATE_LIMIT", problem)]) from None
