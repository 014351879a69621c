"""The states of a job, and what may be asked of it in each: the one table of both."""

from __future__ import annotations

from enum import Enum

from finetune_service.exceptions import ConflictError


class Status(str, Enum):
    """The states, as the API calls them."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Verb(str, Enum):
    """What may be asked of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
WAITING = frozenset({Status.VALIDATING_FILES, Status.QUEUED})

LEADS: dict[Verb, dict[Status, Status]] = {
    Verb.CANCEL: {
        Status.VALIDATING_FILES: Status.CANCELLED,
        Status.QUEUED: Status.CANCELLED,
        Status.RUNNING: Status.CANCELLED,
        Status.PAUSED: Status.CANCELLED,
    },
    Verb.PAUSE: {
        Status.VALIDATING_FILES: Status.PAUSED,
        Status.QUEUED: Status.PAUSED,
        Status.RUNNING: Status.PAUSED,
    },
    Verb.RESUME: {Status.PAUSED: Status.QUEUED},
    Verb.CHECKPOINT: {Status.RUNNING: Status.RUNNING},
}
"""Verb → state in which it may be asked → state that it leads to, soon if not at once."""


def check(verb: Verb, status: Status, job_id: str) -> bool:
    """Says whether there is anything to do.

    A verb asked again where it has led already does no harm: an answer may have been lost.

    Raises:
        ConflictError: It makes no sense in that state.
    """
    leads = LEADS[verb]
    if status in leads:
        return True
    if status in leads.values():
        return False
    where = ", ".join(state.value for state in leads)
    raise ConflictError(
        f"{job_id} is {status.value}, so it cannot {verb.value}.", hint=f"A job can while {where}."
    )
