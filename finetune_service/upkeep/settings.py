"""How long things are kept: FINETUNE_KEEP_*."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError
from finetune_service.stack.settings import KEPT, StackSettings, kept_settings

DAY = 24 * 3600.0

Days = Annotated[float, Field(ge=0)]


class KeepSettings(Settings):
    """For how many days what may be removed is kept, beside the settings of the installation."""

    keep_checkpoint_days: Days = 14
    """The checkpoints of a job after its end: people choose among them, and it could go on."""

    keep_job_days: Days = 180
    """The folder of a job that has no registered model, after its end."""

    keep_cache_days: Days = 30
    """Sanitized and tokenized rows, after a job or a command last used them."""

    keep_request_days: Days = 30
    """What was made of an idempotency key."""

    keep_log_days: Days = 14
    """Rotated logs, and what checks, evaluations and merges have left of themselves."""


def load_keep_settings() -> KeepSettings:
    """The settings of the environment.

    Raises:
        InvalidConfigError: Some variable has a value that it cannot have.
    """
    try:
        return KeepSettings()
    except ValidationError as error:
        faults = [
            Fault(f"FINETUNE_{each['loc'][0]}".upper(), each["msg"]) for each in error.errors()
        ]
        raise InvalidConfigError(faults, source="the environment") from None


def stack_settings(home: Path) -> StackSettings | None:
    """The settings of a home's stack; none where there never was one, whatever its path is."""
    return kept_settings() if (home / "stack" / KEPT).exists() else None
