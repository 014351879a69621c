"""Models: what an organisation's finished jobs have made, as files."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from finetune_core.exceptions import VersionNotFoundError
from finetune_core.hub.ports import Hub
from finetune_core.storage import MANIFEST, is_whole, read_manifest
from finetune_core.types import GATE_ALIASES
from finetune_service.exceptions import ConflictError, NotFoundError
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.states import Status
from finetune_service.jobs.store import DELETED, JobStore

BLOCK = 1 << 20
PACKAGE = "package"  # adapter, tokenizer, card: what was registered
LARGE = ("adapter", PACKAGE, "checkpoints")  # what is gone with the model


class Model(NamedTuple):
    """A model that a job has made."""

    record: JobRecord
    outcome: Outcome

    @property
    def id(self) -> str:
        """The model's id, `ft:…`."""
        return self.record.fine_tuned_model


class ModelFile(NamedTuple):
    """One file of a model."""

    name: str
    bytes: int
    sha256: str


class Models:
    """The models of one organisation.

    Args:
        store: The jobs that made them.
        organization: Whose.
    """

    def __init__(self, store: JobStore, organization: str) -> None:
        self._store, self._organization = store, organization

    def list(self) -> Iterator[Model]:
        """The models, the newest first."""
        for record in self._store.records(self._organization):
            if model := self._of(record):
                yield model

    def get(self, name: str) -> Model:
        """A model by its id.

        Raises:
            NotFoundError: There is none.
        """
        record = self._store.find_model(self._organization, name)
        model = self._of(record) if record else None
        if model is None:
            raise NotFoundError(f"No such Model object: {name}")
        return model

    def files(self, model: Model) -> tuple[ModelFile, ...]:
        """What a model consists of, with the digests that were taken when it was made.

        Raises:
            NotFoundError: The files are not there any more.
        """
        folder = self._package(model)
        return tuple(
            ModelFile(name, (folder / name).stat().st_size, digest)
            for name, digest in read_manifest(folder)["files"].items()
        )

    def archive(self, model: Model) -> Iterator[bytes]:
        """All files as one zip, made while it is sent; the manifest in it has their digests."""
        folder = self._package(model)
        names = [MANIFEST, *(file.name for file in self.files(model))]
        return zip_of([(name, folder / name) for name in names])

    def delete(self, model: Model, hub: Hub) -> None:
        """Forgets a model: its version in the registry and its files; the job stays.

        Raises:
            ConflictError: An alias points there that no job gives by itself.
            HubUnavailableError: The registry is away.
        """
        version = model.outcome.registered
        if version:
            try:
                found = hub.get(version.model_name, version.version)
                pointing = sorted(set(found.aliases) - {*version.aliases, *GATE_ALIASES})
                if pointing:
                    raise ConflictError(
                        f"{model.id} is what {' and '.join(pointing)} points to.",
                        hint="Move the alias first.",
                    )
                hub.delete(version.model_name, version.version)
            except VersionNotFoundError:
                pass  # somebody has deleted it there
        folder = self._store.folder(self._organization, model.record.id)
        (folder / DELETED).touch()
        for name in LARGE:
            shutil.rmtree(folder / name, ignore_errors=True)

    def _of(self, record: JobRecord) -> Model | None:
        outcome = self._store.outcome(record)
        if outcome is None or outcome.status is not Status.SUCCEEDED:
            return None
        deleted = (self._store.folder(self._organization, record.id) / DELETED).exists()
        return None if deleted else Model(record, outcome)

    def _package(self, model: Model) -> Path:
        folder = self._store.folder(self._organization, model.record.id) / PACKAGE
        if not is_whole(folder):
            raise NotFoundError(f"The files of {model.id} are not there any more.")
        return folder


class _Sink(io.RawIOBase):
    """Takes what a zip writes, until it is taken out."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, block: object) -> int:
        content = bytes(block)  # type: ignore[call-overload]
        self._blocks.append(content)
        return len(content)

    def take(self) -> bytes:
        taken = b"".join(self._blocks)
        self._blocks.clear()
        return taken


def zip_of(files: list[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of files, by name and path, stored as they are: weights do not shrink."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in files:
            info = zipfile.ZipInfo.from_file(path, name)
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                while block := source.read(BLOCK):
                    target.write(block)
                    yield sink.take()
    yield sink.take()
