"""gc: removes what nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from finetune_core.exceptions import FineTuneError
from finetune_service.api.settings import ApiSettings
from finetune_service.exceptions import NotFoundError
from finetune_service.files import FileStore, Uploads
from finetune_service.jobs.store import JobStore
from finetune_service.upkeep.caches import Caches
from finetune_service.upkeep.leftovers import HalfMade, OldFiles, OldRequests, RotatedLogs
from finetune_service.upkeep.old_jobs import OldJobs
from finetune_service.upkeep.registered import RegisteredJobs
from finetune_service.upkeep.removal import Broom, Removable, alone
from finetune_service.upkeep.settings import KeepSettings


class Collected(NamedTuple):
    """What gc has removed, or would."""

    removed: list[Removable]
    problems: dict[str, FineTuneError]
    """Organisation → why folders of its jobs that are old enough were left."""


def collect(
    keep: KeepSettings,
    *,
    organization: str | None = None,
    dry_run: bool = False,
    now: float | None = None,
) -> Collected:
    """Removes what no live job and no registered model needs, and what is old enough.

    Args:
        keep: Where, and for how long things are kept.
        organization: Only this one's.
        dry_run: Whether it is only found.
        now: Seconds since 1970.

    Raises:
        NotFoundError: There is no such organisation.
        UpkeepInUseError: Another gc, a backup or a restore works here.
    """
    now = time.time() if now is None else now
    home = keep.home.expanduser().absolute()
    names = sorted(path.name for path in home.glob("organizations/[!.]*") if path.is_dir())
    if organization is not None:
        if organization not in names:
            raise NotFoundError(f"there is no organisation {organization} under {home}")
        names = [organization]
    removed: list[Removable] = []
    problems: dict[str, FineTuneError] = {}
    with alone(home):
        for name in names:
            jobs = OldJobs(JobStore(home), name, keep, RegisteredJobs(name, keep), now)
            for broom in (jobs, *_brooms(keep, name, now)):
                removed += _sweep(broom, dry_run)
            if jobs.problem:
                problems[name] = jobs.problem
        if organization is None:
            removed += _sweep(RotatedLogs(home, keep, now), dry_run)
    return Collected(removed, problems)


def _brooms(keep: KeepSettings, organization: str, now: float) -> Iterator[Broom]:
    """All but jobs; after those, since what only they have named is needed no more."""
    store, settings = JobStore(keep.home), ApiSettings()

    def in_use(organization: str, file_id: str) -> bool:
        return any(file_id in record.file_ids for record in store.unfinished(organization))

    files = FileStore(keep.home, settings.files_url, in_use=in_use, now=lambda: now)
    yield Caches(store, organization, keep, now)
    yield OldFiles(files, Uploads(files, settings.max_file_bytes), organization)
    yield OldRequests(files, store, organization, keep, now)
    yield HalfMade(store.home_of(organization), keep, now)


def _sweep(broom: Broom, dry_run: bool) -> list[Removable]:
    found = list(broom.find())
    return found if dry_run or not found else broom.remove(found)
