"""What the pipeline asks of a hub: tracking of runs, and a registry of versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PARENT_RUN = "mlflow.parentRunId"  # a tag of a run: below which other it is shown

# Tags of a version.
DELETED = "deleted_at"  # since when it is deleted, in seconds since 1970
BASE_DIGEST = "base_digest"  # only a base has it: the sha256 over its config and weights
BASE_REF = "base_ref"  # of which base's version it was made


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int
    time: float  # seconds since 1970


class NewVersion(NamedTuple):
    """What a version is to be. Without an alias, none points to it."""

    model_name: str
    alias: str | None
    model_type: str
    tags: dict[str, str]
    description: str


class Version(NamedTuple):
    """One version of a registered model."""

    model_name: str
    version: int
    uri: str
    run_id: str
    tags: dict[str, str]
    aliases: list[str]
    created_at: int = 0  # seconds since 1970

    @property
    def is_deleted(self) -> bool:
        """Whether it is hidden until it is undeleted or purged."""
        return DELETED in self.tags

    @property
    def is_base(self) -> bool:
        """Whether it is a base model, and nothing that was made of one."""
        return BASE_DIGEST in self.tags

    @property
    def ref(self) -> str:
        """The name that tells it from every other version: NAME@NUMBER."""
        return f"{self.model_name}@{self.version}"


class Hub(Protocol):
    """Tracks runs and keeps versions. Every method raises `HubUnavailableError` when it is away."""

    def look(self) -> str:
        """Where a person looks at it: an address, or the command that opens one."""

    def start_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Opens a run and gives its id."""

    def find_run(self, tag: str, value: str) -> str | None:
        """The id of the first run with a tag of that value, if there is one."""

    def end_run(self, run_id: str, status: str) -> None:
        """Closes a run as FINISHED, FAILED or KILLED."""

    def tag_run(self, run_id: str, name: str, value: str) -> None:
        """Gives a tag of a run a value."""

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Adds params, each once and for good."""

    def params(self, run_id: str) -> dict[str, str]:
        """The params of a run, as text."""

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Adds values of metrics."""

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Keeps a file with the run."""

    def log_table(self, run_id: str, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Keeps rows as a table that people can look at."""

    def log_dataset(
        self, run_id: str, *, name: str, source: str, digest: str, context: str
    ) -> None:
        """Says which data the run used, and what for."""

    def system_metrics(self, run_id: str) -> AbstractContextManager[None]:
        """Samples CPU, memory and GPU into the run while the block lasts."""

    def register(self, run_id: str, folder: Path, new: NewVersion) -> Version:
        """Keeps a folder as a version, under an alias if any; a run has at most one of a name."""

    def versions(self, model_name: str | None = None) -> list[Version]:
        """The versions of a model, or of all models, the newest first."""

    def get(self, model_name: str, version: int | str) -> Version:
        """One version, by its number or by an alias.

        Raises:
            VersionNotFoundError: There is none.
        """

    def set_alias(self, version: Version, alias: str) -> None:
        """Has an alias point to a version, wherever it pointed before."""

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Forgets an alias; one that is not there is forgotten already."""

    def tag(self, version: Version, name: str, value: str | None) -> None:
        """Gives a tag of a version a value; without one, forgets the tag."""

    def delete(self, model_name: str, version: int | None = None) -> None:
        """Forgets a version, or a model with all that it has. A version's number is not reused.

        Raises:
            VersionNotFoundError: There is none.
        """

    def fetch(self, version: Version, file: str, folder: Path) -> Path:
        """Fetches one file of a version into a folder and gives where it lies.

        Raises:
            VersionNotFoundError: The version has no such file.
        """

    def download(self, version: Version, folder: Path) -> Path:
        """Fetches a version's files and gives the folder that holds them."""
