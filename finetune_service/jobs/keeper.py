"""Keeper: does for jobs what no request waits for."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from finetune_service.exceptions import UnavailableError
from finetune_service.jobs.prefect_client import PrefectRefusedError
from finetune_service.jobs.priority import Priority
from finetune_service.jobs.record import JobRecord
from finetune_service.jobs.service import Jobs, JobService
from finetune_service.jobs.webhooks import Webhooks

ROUND_SECONDS = 3.0
GRACE_SECONDS = 30.0  # in which the request that made a job submits it itself

log = logging.getLogger(__name__)


class Keeper:
    """Submits what is not submitted yet, closes what ended without a word, tells webhooks.

    Of several API processes over one home, one is the keeper; another takes over when it ends.

    Args:
        jobs: The jobs.
        webhooks: Who is told.
        home: `FINETUNE_HOME`.
    """

    def __init__(self, jobs: Jobs, webhooks: Webhooks, home: Path) -> None:
        self._jobs = jobs
        self._webhooks = webhooks
        self._lock = FileLock(home.expanduser().absolute() / "keeper.lock", thread_local=False)
        self._settled: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begins, or waits until the keeper of another process ends."""
        self._thread.start()

    def stop(self) -> None:
        """Ends when the round ends; what is open is done by the next keeper."""
        self._stopped.set()

    def round(self) -> None:
        """Looks once at all jobs that are not settled."""
        for organization in self._jobs.store.organizations():
            service = self._jobs.of(organization)
            try:
                self._finish(service)
            except UnavailableError as error:
                log.info("jobs of %s: %s", organization, error)
            self._settle(organization)

    def _run(self) -> None:
        while not self._stopped.wait(ROUND_SECONDS):
            try:
                with self._lock.acquire(blocking=False):
                    while not self._stopped.is_set():
                        self._try_round()
                        self._stopped.wait(ROUND_SECONDS)
            except Timeout:  # another process is the keeper
                continue

    def _try_round(self) -> None:
        try:
            self.round()
        except Exception:  # whatever it was, the next round comes
            log.exception("the keeper's round")

    def _finish(self, service: JobService) -> None:
        """Has every job known to Prefect, lost ones started again, and ended ones closed."""
        urgency = list(Priority).index
        waiting = reversed(self._unfinished(service))  # as they came
        for record in sorted(waiting, key=lambda each: urgency(each.priority)):
            if record.flow_run_id or time.time() < record.created_at + GRACE_SECONDS:
                continue
            if not service.has_room():
                break
            try:
                service.submitted(record)
            except PrefectRefusedError as error:
                service.fail(record, str(error))
        service.settle(self._unfinished(service))

    def _unfinished(self, service: JobService) -> list[JobRecord]:
        return list(self._jobs.store.unfinished(service.organization, apart_from=self._settled))

    def _settle(self, organization: str) -> None:
        """Does what comes after the end of jobs; one that is settled is not looked at again."""
        for job_id in self._jobs.store.ids(organization):
            if job_id not in self._settled:
                record = self._jobs.store.get(organization, job_id)
                if record and self._is_settled(record):
                    self._settled.add(job_id)

    def _is_settled(self, record: JobRecord) -> bool:
        outcome = self._jobs.store.outcome(record)
        if outcome is None:
            return False
        self._jobs.of(record.organization).look(record)  # makes the result file
        folder = self._jobs.store.folder(record.organization, record.id)
        return self._webhooks.deliver(record, outcome, folder)
