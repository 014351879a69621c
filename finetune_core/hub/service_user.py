"""The user that speaks for an organisation in MLflow, in a file that only its owner reads."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

from pydantic import Field, ValidationError

from finetune_core.config.settings import Settings
from finetune_core.exceptions import DamagedFolderError, HubUnavailableError
from finetune_core.types import Record

WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"


class ServiceUser(Record):
    """An organisation's user in MLflow, and the workspace that it may use."""

    name: str
    password: str = Field(repr=False)
    workspace: str

    def headers(self) -> dict[str, str]:
        """What a request to MLflow carries to come from this user and go to its workspace."""
        pair = b64encode(f"{self.name}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}", WORKSPACE_HEADER: self.workspace}


def service_user_file(settings: Settings, organization: str) -> Path:
    """Where an organisation's user is kept: every process that works for it finds it there."""
    return settings.organization_folder(organization) / "mlflow-user.json"


def read_service_user(settings: Settings, organization: str) -> ServiceUser:
    """The user of an organisation.

    Raises:
        HubUnavailableError: It has none yet. The API makes it.
        DamagedFolderError: The file cannot be read.
    """
    file = service_user_file(settings, organization)
    try:
        return ServiceUser.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise HubUnavailableError(
            f"the organisation {organization} has no user in MLflow yet",
            hint="The API makes it as soon as MLflow answers.",
        ) from None
    except ValidationError as error:
        # Its input would be shown, and the password is in it.
        raise DamagedFolderError(f"{file} is damaged: {error.error_count()} faults") from None


def write_service_user(settings: Settings, organization: str, user: ServiceUser) -> None:
    """Keeps a user, whole or not at all, with nobody else's eyes on it from the first byte on."""
    file = service_user_file(settings, organization)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(user.model_dump_json())
        stream.flush()
        os.fsync(descriptor)
    half.replace(file)
