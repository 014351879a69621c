"""What the stack is told by the environment: FINETUNE_*."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

import finetune_core
from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError

PREFIX = "FINETUNE_"
KEPT = "settings.json"
# A unix socket's path has room for 107 bytes, and supervisor adds its process id to ours.
LONGEST_HOME = 70

END_SECONDS = 60  # to kill what is left of jobs, and to tell Prefect of it

# What listens everywhere is reached on this machine by its own address.
ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104

Port = Annotated[int, Field(ge=1, le=65535)]


class StackSettings(Settings):
    """The settings of the stack, from the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """The address that API, Prefect and MLflow listen on."""

    api_host: str | None = None
    """The address of the API alone, which is the part that faces people; without it, `host`."""

    api_port: Port = 8000
    """The API's port."""

    prefect_port: Port = 4200
    """Prefect's port."""

    mlflow_port: Port = 5000
    """MLflow's port."""

    mlflow_allowed_hosts: str | None = None
    """The host names that MLflow answers to, divided by commas; without it, this machine's own."""

    sqlite: bool = False
    """Whether both servers keep their facts in SQLite files, for a single user."""

    database_url: SecretStr | None = None
    """A PostgreSQL server, as postgresql://user:password@host/database; without it, a private
    one."""

    postgres_folder: Path | None = None
    """Where the private PostgreSQL lies; without it, under `home`."""

    pools: Annotated[list[str], NoDecode, Field(min_length=1)] = Field(
        default_factory=lambda: ["cpu", *(["gpu"] if has_gpu() else [])]
    )
    """The work pools that this machine has a worker for, divided by commas; without it, cpu, and
    gpu where there is one."""

    worker_limit: Annotated[int, Field(ge=1)] = 1
    """The jobs that a worker runs at once."""

    worker_query_seconds: Annotated[float, Field(ge=1)] = 5
    """How often a worker asks for jobs."""

    worker_grace_seconds: Annotated[int, Field(ge=0)] = 120
    """How long the jobs of a worker that is stopped may take to save a checkpoint and to end."""

    source: Path = Path(finetune_core.__file__).parents[1]
    """The folder of flows/ and prefect.yaml."""

    start_seconds: Annotated[float, Field(gt=0)] = 120
    """How long a part may take to become healthy."""

    @field_validator("pools", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [each.strip() for each in value.split(",")] if isinstance(value, str) else value

    @field_validator("pools")
    @classmethod
    def _plain(cls, value: list[str]) -> list[str]:
        for name in value:
            if not name.replace("-", "").isalnum():
                raise ValueError(f"a pool's name is letters, digits and - (got {name!r})")
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        home = value.expanduser().absolute()
        if len(os.fsencode(home)) > LONGEST_HOME:
            raise ValueError(f"is longer than {LONGEST_HOME} bytes, which sockets have no room for")
        return home

    @property
    def worker_stop_seconds(self) -> int:
        """How long a worker may take to end: its jobs, and then what has not ended by itself."""
        return self.worker_grace_seconds + END_SECONDS

    @property
    def folder(self) -> Path:
        """Everything that the stack keeps but its databases."""
        return self.home / "stack"

    def address(self, port: int, host: str | None = None) -> str:
        """A server's address, as a browser on this machine takes it.

        Args:
            port: Its port.
            host: What it listens on; without it, `host`.
        """
        host = host or self.host
        return f"http://{ANY.get(host, host)}:{port}"

    @property
    def api_address(self) -> str:
        """The API's address."""
        return self.address(self.api_port, self.api_host)

    def keep(self) -> None:
        """Writes down what the stack is started with, for `status` and `down` to read."""
        fields = self.model_dump(mode="json", include={"home", *StackSettings.__annotations__})
        if self.database_url is not None:
            fields["database_url"] = self.database_url.get_secret_value()
        write_private(self.folder / KEPT, json.dumps(fields, indent=2))

    def secret(self, name: str) -> str:
        """A password or a key of the stack, made when it is first asked for, in a file of its own.

        Args:
            name: The file's name.
        """
        file = self.folder / "secrets" / name
        if not file.exists():
            write_private(file, secrets.token_urlsafe(32))
        return file.read_text()


def load_settings(**flags: Any) -> StackSettings:
    """The settings of the environment, with flags over them.

    Args:
        flags: Fields that the command line gave; None was not given.

    Raises:
        InvalidConfigError: Some variable has a value that it cannot have.
    """
    try:
        return StackSettings(**{name: each for name, each in flags.items() if each is not None})
    except ValidationError as error:
        faults = [
            Fault(PREFIX + str(each["loc"][0]).upper(), each["msg"]) for each in error.errors()
        ]
        raise InvalidConfigError(faults, source="the environment") from None


def kept_settings() -> StackSettings | None:
    """The settings that the stack under FINETUNE_HOME was started with; None if it never was."""
    file = load_settings().folder / KEPT
    return StackSettings(**json.loads(file.read_text())) if file.exists() else None


def write_private(file: Path, text: str) -> None:
    """Writes a file that nobody else may read, whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(text)
    half.replace(file)


def has_gpu() -> bool:
    """Whether this machine has a GPU, as its driver's tool or device tells."""
    return Path("/dev/nvidia0").exists() or shutil.which("rocm-smi") is not None
