"""A hub in memory, for tests and for use without MLflow; it keeps the same contract."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_core.exceptions import HubError, HubUnavailableError, VersionNotFoundError
from finetune_core.hub.ports import NewVersion, Point, Version


@dataclass
class MemoryRun:
    """What was logged to a run."""

    name: str
    tags: dict[str, str]
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    datasets: list[dict[str, str]] = field(default_factory=list)


class MemoryHub:
    """Keeps everything in dictionaries. `away` makes it as good as dead."""

    def __init__(self) -> None:
        self.away = False
        self.runs: dict[str, MemoryRun] = {}
        self._versions: dict[str, list[tuple[Version, Path]]] = {}
        self._aliases: dict[tuple[str, str], int] = {}
        self._numbers: dict[str, int] = {}

    def look(self) -> str:
        """Nowhere."""
        return "in memory"

    def start_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Opens a run."""
        self._answer()
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = MemoryRun(name, dict(tags))
        return run_id

    def find_run(self, tag: str, value: str) -> str | None:
        """Looks through the runs."""
        self._answer()
        return next((name for name, run in self.runs.items() if run.tags.get(tag) == value), None)

    def end_run(self, run_id: str, status: str) -> None:
        """Closes a run."""
        self._run(run_id).status = status

    def tag_run(self, run_id: str, name: str, value: str) -> None:
        """Changes a tag."""
        self._run(run_id).tags[name] = value

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Adds params; another value for one that is there is refused."""
        known = self._run(run_id).params
        for name, value in params.items():
            if known.setdefault(name, str(value)) != str(value):
                raise HubError(f"the param {name} is already {known[name]}")

    def params(self, run_id: str) -> dict[str, str]:
        """The params."""
        return dict(self._run(run_id).params)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Adds values."""
        self._run(run_id).points.extend(points)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Keeps a file's bytes."""
        name = f"{folder}/{path.name}" if folder else path.name
        self._run(run_id).files[name] = path.read_bytes()

    def log_table(self, run_id: str, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Keeps rows."""
        self._run(run_id).tables[file] = [dict(row) for row in rows]

    def log_dataset(
        self, run_id: str, *, name: str, source: str, digest: str, context: str
    ) -> None:
        """Keeps the facts."""
        facts = {"name": name, "source": source, "digest": digest, "context": context}
        self._run(run_id).datasets.append(facts)

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Samples nothing."""
        self._run(run_id)
        yield

    def register(self, run_id: str, folder: Path, new: NewVersion) -> Version:
        """Keeps the folder's path as a version."""
        self._run(run_id)
        known = self._versions.setdefault(new.model_name, [])
        version = next((each for each, _ in known if each.run_id == run_id), None)
        if version is None:
            number = self._numbers[new.model_name] = self._numbers.get(new.model_name, 0) + 1
            uri = f"models:/{new.model_name}/{number}"
            created = int(time.time())
            version = Version(new.model_name, number, uri, run_id, dict(new.tags), [], created)
            known.append((version, folder))
        if new.alias:
            self._aliases[new.model_name, new.alias] = version.version
        return self.get(new.model_name, version.version)

    def versions(self, model_name: str | None = None) -> list[Version]:
        """The versions, the newest first."""
        self._answer()
        names = self._versions if model_name is None else [model_name]
        known = [each for name in names for each, _ in self._versions.get(name, [])]
        known.sort(key=lambda each: (each.created_at, each.version), reverse=True)
        return [self.get(each.model_name, each.version) for each in known]

    def get(self, model_name: str, version: int | str) -> Version:
        """One version, by its number or by an alias."""
        self._answer()
        if isinstance(version, str) and not version.isdigit():
            if (model_name, version) not in self._aliases:
                raise VersionNotFoundError(f"no version of {model_name} is called {version}")
            version = self._aliases[model_name, version]
        for each, _ in self._versions.get(model_name, []):
            if each.version == int(version):
                aliases = [
                    alias
                    for (name, alias), number in self._aliases.items()
                    if name == model_name and number == each.version
                ]
                return each._replace(aliases=aliases)
        raise VersionNotFoundError(f"there is no version {version} of {model_name}")

    def set_alias(self, version: Version, alias: str) -> None:
        """Points an alias to a version."""
        number = self.get(version.model_name, version.version).version
        self._aliases[version.model_name, alias] = number

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Forgets an alias."""
        self._answer()
        self._aliases.pop((model_name, alias), None)

    def tag(self, version: Version, name: str, value: str | None) -> None:
        """Changes a tag."""
        tags = self.get(version.model_name, version.version).tags
        tags.pop(name, None)
        if value is not None:
            tags[name] = value

    def delete(self, model_name: str, version: int | None = None) -> None:
        """Forgets a version, or a model."""
        self._answer()
        if model_name not in self._versions:
            raise VersionNotFoundError(f"there is no model {model_name}")
        if version is None:
            del self._versions[model_name], self._numbers[model_name]
        else:
            gone = self.get(model_name, version).version
            kept = [each for each in self._versions[model_name] if each[0].version != gone]
            self._versions[model_name] = kept
        for (name, alias), number in list(self._aliases.items()):
            if name == model_name and version in (None, number):
                del self._aliases[name, alias]

    def fetch(self, version: Version, file: str, folder: Path) -> Path:
        """Copies the file."""
        source = self._folder(version) / file
        if not source.is_file():
            raise VersionNotFoundError(f"{version.ref} has no file {file}")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(source, folder))

    def download(self, version: Version, folder: Path) -> Path:
        """Copies the folder."""
        shutil.copytree(self._folder(version), folder, dirs_exist_ok=True)
        return folder

    def _folder(self, version: Version) -> Path:
        self.get(version.model_name, version.version)
        return next(
            path
            for each, path in self._versions[version.model_name]
            if each.version == version.version
        )

    def _answer(self) -> None:
        if self.away:
            raise HubUnavailableError("the hub does not answer")

    def _run(self, run_id: str) -> MemoryRun:
        self._answer()
        if run_id not in self.runs:
            raise HubError(f"there is no run {run_id}")
        return self.runs[run_id]
