"""The states of a job and the ways between them: one table, for the API, the SDK and the tests."""

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


class Turn(str, Enum):
    """What happens to a job without being asked.

    lost: its process is gone, and it is started again; too often, and it fails. handed back: its
    worker was stopped, or the hub is away. full: the disk is, so it pauses. given up: it was paused
    for too long.
    """

    CHECKED = "checked"
    STARTED = "started"
    LOST = "lost"
    HANDED_BACK = "handed_back"
    FULL = "full"
    GIVEN_UP = "given_up"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


FINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
WAITING = frozenset({Status.VALIDATING_FILES, Status.QUEUED})

WAYS: dict[Status, dict[Verb | Turn, Status]] = {
    Status.VALIDATING_FILES: {
        Verb.CANCEL: Status.CANCELLED,
        Verb.PAUSE: Status.PAUSED,
        Turn.CHECKED: Status.QUEUED,
        Turn.STARTED: Status.RUNNING,
        Turn.FAILED: Status.FAILED,
    },
    Status.QUEUED: {
        Verb.CANCEL: Status.CANCELLED,
        Verb.PAUSE: Status.PAUSED,
        Turn.STARTED: Status.RUNNING,
        Turn.FAILED: Status.FAILED,
    },
    Status.RUNNING: {
        Verb.CANCEL: Status.CANCELLED,
        Verb.PAUSE: Status.PAUSED,
        Verb.CHECKPOINT: Status.RUNNING,
        Turn.LOST: Status.QUEUED,
        Turn.HANDED_BACK: Status.QUEUED,
        Turn.FULL: Status.PAUSED,
        Turn.FAILED: Status.FAILED,
        Turn.SUCCEEDED: Status.SUCCEEDED,
    },
    Status.PAUSED: {
        Verb.CANCEL: Status.CANCELLED,
        Verb.RESUME: Status.QUEUED,
        Turn.GIVEN_UP: Status.FAILED,
    },
    Status.SUCCEEDED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}
"""State → what is asked or happens → state that it leads to, soon if not at once."""

LEADS: dict[Verb, dict[Status, Status]] = {
    verb: {before: ways[verb] for before, ways in WAYS.items() if verb in ways} for verb in Verb
}
"""Verb → state in which it may be asked → state that it leads to."""


def may_become(before: Status, after: Status) -> bool:
    """Whether a job that was seen in one state may be seen in another one later."""
    reached, left = {before}, [before]
    while left:
        for status in set(WAYS[left.pop()].values()) - reached:
            reached.add(status)
            left.append(status)
    return after in reached


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
