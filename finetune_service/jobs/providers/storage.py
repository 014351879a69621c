"""FinetuningStorage: one fine-tuning's folder, which is all that anybody knows of it.

request.json  finetuning.json  dataset/  results.csv  logs/  lock
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pydantic import ValidationError

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.data.loading import find_files
from finetune_core.exceptions import DamagedFolderError, JobInUseError, JobNotFoundError
from finetune_core.storage import write_json
from finetune_core.types import DatasetSource, Record, new_id
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.providers.base import Finetuning, FinetuningDataset, FinetuningRequest

KIND = "finetuning"
REQUEST, RECORD = "request.json", "finetuning.json"
LOCK_SECONDS = 10.0
SUFFIX_LENGTH = 64
PATHS = ("path", "validation_path", "evaluation_path")

K = TypeVar("K", bound=Record)


class FinetuningStorage:
    """A fine-tuning that is there already; `create` makes one.

    Args:
        folder: Its folder, whose name is its id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().absolute()
        self._lock = FileLock(self.folder / "lock")

    @classmethod
    def create(cls, root: Path, request: FinetuningRequest) -> FinetuningStorage:
        """Makes a fine-tuning's folder, whole or not at all.

        Args:
            root: Gets the folder; it is nobody else's to read.
            request: What is wanted. Paths in it are made to mean the same from everywhere.

        Raises:
            InvalidValueError: Its address or its suffix cannot be.
        """
        _check(request)
        request = request.model_copy(update={"config": _anchored(request.config)})
        root = root.expanduser().absolute()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / new_id(KIND)
        record = Finetuning(
            id=folder.name,
            provider=request.provider,
            organization=request.organization,
            base_model=request.config.model.name,
            created_at=int(time.time()),
        )
        temporary = root / f".{folder.name}.{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            write_json(temporary / REQUEST, request.model_dump(mode="json"))
            write_json(temporary / RECORD, record.model_dump(mode="json"))
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(folder)

    @property
    def request(self) -> FinetuningRequest:
        """What is wanted; raises as `read`."""
        return self._read(REQUEST, FinetuningRequest)

    @property
    def dataset(self) -> Path:
        """Where the dataset is built."""
        return self.folder / "dataset"

    @property
    def results(self) -> Path:
        """The provider's metrics, as CSV; not there while they have not been fetched."""
        return self.folder / "results.csv"

    @property
    def logs(self) -> Path:
        """Where building the dataset writes its events."""
        return self.folder / "logs"

    def read(self) -> Finetuning:
        """What is known of it.

        Raises:
            JobNotFoundError: There is no such fine-tuning.
            DamagedFolderError: Its record cannot be read.
        """
        return self._read(RECORD, Finetuning)

    def change(self, **fields: Any) -> Finetuning:
        """Writes down what has become known."""
        known = self.read()
        changed = Finetuning.model_validate({**known.model_dump(), **fields})
        if changed != known:
            write_json(self.folder / RECORD, changed.model_dump(mode="json"))
        return changed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from making something for it while the block lasts.

        Raises:
            JobInUseError: Another one does.
        """
        try:
            self._lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise JobInUseError(
                f"another process works on {self.folder.name}", hint="Wait until it ends."
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def _read(self, name: str, kind: type[K]) -> K:
        file = self.folder / name
        try:
            return kind.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise JobNotFoundError(
                f"there is no fine-tuning {self.folder.name} in {self.folder.parent}"
            ) from None
        except ValidationError as error:
            raise DamagedFolderError(f"{file} cannot be read: {error}") from None


def is_text_to_sql(config: PipelineConfig) -> bool:
    """Whether a dataset is to be built from questions, rather than taken as it is."""
    return bool(config.sql.databases) and config.sql.golds is None


def plain_dataset(config: PipelineConfig) -> FinetuningDataset:
    """The files that a config names, as they are.

    Raises:
        DatasetNotFoundError: One of them is not there.
        InvalidValueError: They are not on this machine, or a folder of several.
    """
    if config.dataset.source is not DatasetSource.LOCAL_FILE:
        message = f"dataset.source: must be {DatasetSource.LOCAL_FILE.value} for a provider"
        raise InvalidValueError(message, param="dataset.source")
    validation = config.dataset.validation_path
    return FinetuningDataset(
        train=_one_file("path", config.dataset.path),
        validation=_one_file("validation_path", validation) if validation else None,
        config=config,
    )


def _one_file(field: str, path: str) -> Path:
    found = find_files(Path(path))
    if len(found) > 1:
        message = f"dataset.{field}: {path} holds {len(found)} files, and a provider takes one"
        raise InvalidValueError(message, param=f"dataset.{field}")
    return found[0]


def _check(request: FinetuningRequest) -> None:
    suffix = request.suffix
    if suffix is not None and not 0 < len(suffix) <= SUFFIX_LENGTH:
        message = f"suffix: must have 1 to {SUFFIX_LENGTH} characters"
        raise InvalidValueError(message, param="suffix")
    if request.base_url is not None:
        check_address(request.base_url)


def check_address(address: str) -> None:
    """Refuses an address that is none, or that holds a secret.

    Raises:
        InvalidValueError: It does.
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        message = "base_url: must be an address, as https://host/v1"
        raise InvalidValueError(message, param="base_url")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # It is written down and shown, and a key must not be. So it is not shown here either.
        raise InvalidValueError(
            "base_url: may hold no user, no password and no query",
            param="base_url",
            hint="A key is taken from the environment alone.",
        )


def _anchored(config: PipelineConfig) -> PipelineConfig:
    """The config with the paths in it absolute; what leads to no file is left as it is.

    That may be a table of questions, or a model by its name.
    """
    dataset, model = config.dataset, config.model
    paths = {}
    if dataset.source is DatasetSource.LOCAL_FILE:
        given = {name: getattr(dataset, name) for name in PATHS}
        paths = {name: _absolute(value) for name, value in given.items() if value}
    # A provider's own name for a model, without a slash, may be that of a folder by chance.
    base = _absolute(model.name) if "/" in model.name else model.name
    return config.model_copy(
        update={
            "dataset": dataset.model_copy(update=paths),
            "model": model.model_copy(update={"name": base}),
            "sql": config.sql.anchored(),
        }
    )


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
