"""What jobs that have ended need no more: checkpoints, what was half-made, at last all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from finetune_core.exceptions import HubError
from finetune_core.jobs import LOCK
from finetune_service.jobs.record import Outcome
from finetune_service.jobs.store import OUTCOME, JobStore
from finetune_service.upkeep.registered import RegisteredJobs
from finetune_service.upkeep.removal import Removable, gone, held, is_held, newest, removable
from finetune_service.upkeep.settings import DAY, KeepSettings

CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


class OldJobs:
    """The jobs of one organisation that have ended.

    One without an outcome is queued, running, paused or can go on, so it is left alone. Nothing is
    removed but under the lock of the job, which whoever works on it holds.

    Args:
        store: The jobs.
        organization: Whose.
        keep: For how long.
        registered: Which jobs have a model; without it, no job's folder is found as a whole.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        store: JobStore,
        organization: str,
        keep: KeepSettings,
        registered: RegisteredJobs | None,
        now: float,
    ) -> None:
        self._store, self._organization, self._keep = store, organization, keep
        self._registered, self._now = registered, now
        self.problem: HubError | None = None
        """Why folders of jobs that are old enough were not found, where that is so."""

    def find(self) -> Iterator[Removable]:
        """What may be removed of jobs that nobody works on."""
        for job_id in self._store.ids(self._organization):
            folder = self._store.folder(self._organization, job_id)
            outcome = outcome_of(folder)
            if outcome and not is_held(folder / LOCK):
                yield from self._of(folder, outcome)

    def remove(self, found: Sequence[Removable]) -> list[Removable]:
        """Removes it, job by job."""
        removed = []
        by_job = groupby(found, key=lambda each: self._folder(each.path))
        for folder, of_job in by_job:
            if not folder.exists():
                continue
            with held(folder / LOCK) as free:
                # Who goes on with a job removes its outcome under this lock, or writes a new one.
                outcome = outcome_of(folder) if free else None
                still = {each.path for each in self._of(folder, outcome)} if outcome else set()
                removed += gone(each for each in of_job if each.path in still)
        return removed

    def _of(self, folder: Path, outcome: Outcome) -> Iterator[Removable]:
        ended = self._now - outcome.finished_at
        if ended > self._keep.keep_job_days * DAY and not self._has_model(folder, outcome):
            days = f"{self._keep.keep_job_days:g} days"
            yield removable("job", folder, f"ended {days} ago or earlier, no registered model")
            return
        old = ended > self._keep.keep_checkpoint_days * DAY
        if old and (checkpoints := folder / CHECKPOINTS).exists():
            days = f"{self._keep.keep_checkpoint_days:g} days"
            # As a whole: a record of a training without its checkpoints would promise them.
            yield removable(
                "checkpoints", checkpoints, f"of a job that ended {days} ago or earlier"
            )
        for path in folder.glob(".*"):
            if newest(path) < self._now - DAY:
                yield removable("half-made", path, "older than a day")

    def _has_model(self, folder: Path, outcome: Outcome) -> bool:
        """Whether a job has a registered model, or might have one."""
        if self._registered is None:
            return True
        try:
            return self._registered.has(folder, outcome)
        except HubError as error:
            self.problem = error
            return True

    def _folder(self, path: Path) -> Path:
        """The job's folder that a path is in, or is."""
        jobs = self._store.home_of(self._organization) / "jobs"
        return jobs / path.relative_to(jobs).parts[0]


def outcome_of(folder: Path) -> Outcome | None:
    """How a job ended; none where it has not, or where nobody can tell."""
    try:
        return Outcome.model_validate_json((folder / OUTCOME).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s cannot be read, so its job is left alone: %s", folder / OUTCOME, error)
        return None
