"""JobStore: the jobs of organisations as folders, each organisation's apart.

jobs/<ftjob-…>/job.json  config.yaml  outcome.json  results.json  control/  events.jsonl  …
requests/<sha256 of an idempotency key>.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.exceptions import DamagedFolderError
from finetune_core.jobs import CONFIG
from finetune_core.storage import write_json
from finetune_core.types import Job
from finetune_service.files.records import is_id
from finetune_service.jobs.record import JobRecord, Outcome

JOB, OUTCOME, RESULTS, DELETED = "job.json", "outcome.json", "results.json", "model-deleted"
KIND = "ftjob"
SETTLED_NS = 1_000_000_000  # within which two changes may have the same time
KNOWN = 20_000  # the files that are remembered

Stamp = tuple[int, int, int]

K = TypeVar("K", bound=BaseModel)


class JobStore:
    """The jobs of an installation; any number of processes may use the same home.

    Ids sort by time, so a page of a list is found by the folders' names, and only its jobs are
    read.

    Args:
        home: `FINETUNE_HOME`.
    """

    def __init__(self, home: Path) -> None:
        self._root = home.expanduser().absolute() / "organizations"
        self._known: dict[Path, tuple[Stamp, BaseModel]] = {}
        self._ids: dict[Path, tuple[int, list[str]]] = {}
        self._locked = threading.Lock()

    def organizations(self) -> list[str]:
        """The organisations that have jobs."""
        return sorted(path.parent.name for path in self._root.glob("*/jobs"))

    def folder(self, organization: str, job_id: str) -> Path:
        """A job's folder."""
        return self._root / organization / "jobs" / job_id

    def home_of(self, organization: str) -> Path:
        """The folder of all that an organisation keeps."""
        return self._root / organization

    def job(self, record: JobRecord) -> Job:
        """A job as its flow knows it."""
        return Job(
            id=record.id,
            name=record.name,
            organization=record.organization,
            folder=self.folder(record.organization, record.id),
        )

    def ids(self, organization: str, *, after: str | None = None) -> list[str]:
        """The jobs' ids, the newest first.

        Args:
            organization: Whose.
            after: Only those older than this one.
        """
        folder = self._root / organization / "jobs"
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        known, ids = self._ids.get(folder, (0, []))
        if known != changed:
            # Half-made ones begin with a dot.
            names = (name for name in os.listdir(folder) if name.startswith(KIND))
            ids = sorted(names, reverse=True)
            # What changes at once after has perhaps the same time.
            if time.time_ns() > changed + SETTLED_NS:
                self._ids[folder] = (changed, ids)
        return ids if after is None else [job_id for job_id in ids if job_id < after]

    def records(self, organization: str, *, after: str | None = None) -> Iterator[JobRecord]:
        """The jobs, the newest first; they are read only as far as they are taken."""
        for job_id in self.ids(organization, after=after):
            if record := self.get(organization, job_id):
                yield record

    def unfinished(
        self, organization: str, *, apart_from: Collection[str] = ()
    ) -> Iterator[JobRecord]:
        """The jobs that have no outcome yet, the newest first.

        Args:
            organization: Whose.
            apart_from: The ids of those of which it is known.
        """
        for job_id in self.ids(organization):
            if job_id in apart_from:
                continue
            ended = (self.folder(organization, job_id) / OUTCOME).exists()
            record = None if ended else self.get(organization, job_id)
            if record is not None:
                yield record

    def get(self, organization: str, job_id: str) -> JobRecord | None:
        """A job's record, or nothing where there is no such job."""
        if not is_id(KIND, job_id):
            return None
        file = self.folder(organization, job_id) / JOB
        _, known = self._known.get(file, (None, None))
        if isinstance(known, JobRecord) and known.flow_run_id is not None and file.exists():
            return known  # nothing else becomes known of it
        return self._read(file, JobRecord)

    def find(self, organization: str, name: str) -> JobRecord | None:
        """The newest job of a name."""
        return next((each for each in self.records(organization) if each.name == name), None)

    def find_model(self, organization: str, name: str) -> JobRecord | None:
        """The job whose model has an id, whether the model is made yet or not."""
        short = name.rpartition(":")[2]
        for job_id in self.ids(organization) if short else ():
            record = self.get(organization, job_id) if job_id.endswith(short) else None
            if record and record.fine_tuned_model == name:
                return record
        return None

    def outcome(self, record: JobRecord) -> Outcome | None:
        """How a job ended, or nothing where it has not."""
        return self._read(self.folder(record.organization, record.id) / OUTCOME, Outcome)

    def config(self, record: JobRecord) -> PipelineConfig:
        """What a job is told."""
        return PipelineConfig.from_yaml(self.folder(record.organization, record.id) / CONFIG)

    def add(self, record: JobRecord, config: PipelineConfig) -> None:
        """Makes a job's folder, whole or not at all."""
        folder = self.folder(record.organization, record.id)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder.with_name(f".{record.id}.{uuid.uuid4().hex}")
        temporary.mkdir()
        try:
            config.to_yaml(temporary / CONFIG)
            write_json(temporary / JOB, record.model_dump(mode="json"))
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def change(self, record: JobRecord, **fields: Any) -> JobRecord:
        """Writes down what has become known of a job."""
        changed = record.model_copy(update=fields)
        folder = self.folder(record.organization, record.id)
        write_json(folder / JOB, changed.model_dump(mode="json"))
        return changed

    def withdraw(self, record: JobRecord) -> None:
        """Removes a job that nobody was told of."""
        folder = self.folder(record.organization, record.id)
        aside = folder.with_name(f".{record.id}.{uuid.uuid4().hex}")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def finish(self, record: JobRecord, outcome: Outcome) -> Outcome:
        """Writes how a job ended, unless somebody has; gives what stands there."""
        file = self.folder(record.organization, record.id) / OUTCOME
        temporary = file.with_name(f".{OUTCOME}.{uuid.uuid4().hex}")
        try:
            write_json(temporary, outcome.model_dump(mode="json"))
            os.link(temporary, file)  # fails where there is one, which a rename would replace
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        return self.outcome(record) or outcome

    def request(self, organization: str, key: str, **fields: Any) -> dict[str, Any]:
        """Remembers what was made of an idempotency key, or gives what was made of it before."""
        name = f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        file = self._root / organization / "requests" / name
        try:
            known: dict[str, Any] = json.loads(file.read_bytes())
            return known
        except FileNotFoundError:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(file, {"created_at": int(time.time()), **fields})
            return fields

    def _read(self, file: Path, kind: type[K]) -> K | None:
        """A file's record, from memory where the file has not changed; it never is in place."""
        try:
            found = file.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            known, record = self._known.get(file, (None, None))
            if known != stamp or not isinstance(record, kind):
                record = kind.model_validate_json(file.read_bytes())
                self._remember(file, stamp, record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            raise DamagedFolderError(f"{file} cannot be read: {error}") from None
        return record

    def _remember(self, file: Path, stamp: Stamp, record: BaseModel) -> None:
        with self._locked:
            while len(self._known) >= KNOWN:
                del self._known[next(iter(self._known))]
            self._known[file] = (stamp, record)
