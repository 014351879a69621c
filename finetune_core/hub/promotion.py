"""Promotion: which version is the champion, and the record of how it became that.

The aliases say how it is now, and each version's tags what happened to it, by time; both are in the
registry. An alias moves at once, two do not: `previous` goes first, so that a kill between them
leaves the old champion in place, and the same move done again completes it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from finetune_core.exceptions import NoPreviousError, VersionNotFoundError
from finetune_core.hub.ports import Hub, Version
from finetune_core.types import CHALLENGER, CHAMPION, PREVIOUS

EVENT = "event."  # a tag: event.<nanoseconds since 1970> = what happened


class Happened(NamedTuple):
    """Something that happened to a version."""

    time: float  # seconds since 1970
    ref: str
    what: str


def find(hub: Hub, model_name: str, alias: str) -> Version | None:
    """The version that an alias points to, if it points to one."""
    try:
        return hub.get(model_name, alias)
    except VersionNotFoundError:
        return None


def promote(hub: Hub, version: Version, why: str) -> Version | None:
    """Makes a version the champion, and the one before it `previous`.

    Args:
        hub: The registry.
        version: The version; nothing happens where it is the champion.
        why: For the record.

    Returns:
        The version that was champion until now.
    """
    name = version.model_name
    former = find(hub, name, CHAMPION)
    if former is not None and former.version == version.version:
        return former
    if former is not None:
        hub.set_alias(former, PREVIOUS)
    hub.set_alias(version, CHAMPION)
    challenger = find(hub, name, CHALLENGER)
    if challenger is not None and challenger.version == version.version:
        hub.drop_alias(name, CHALLENGER)
    record(hub, version, f"became champion: {why}")
    return former


def refuse(hub: Hub, version: Version, why: str) -> None:
    """Makes a version the challenger: it has not proved to be better."""
    former = find(hub, version.model_name, CHALLENGER)
    if former is None or former.version != version.version:
        hub.set_alias(version, CHALLENGER)
        record(hub, version, f"became challenger: {why}")


def rollback(hub: Hub, model_name: str) -> Version:
    """Makes the champion before this one the champion again; once more undoes it.

    Returns:
        The champion from now on.

    Raises:
        NoPreviousError: There is none.
    """
    previous = find(hub, model_name, PREVIOUS)
    if previous is None:
        raise NoPreviousError(
            f"no champion of {model_name} came before the one there is",
            hint=f"`finetune-cli hub history {model_name}` tells what happened; promote another.",
        )
    former = promote(hub, previous, "rolled back")
    if former is not None:
        record(hub, former, f"was rolled back to {previous.ref}")
    return hub.get(model_name, previous.version)


def record(hub: Hub, version: Version, what: str) -> None:
    """Keeps with a version that something happened to it."""
    hub.tag(version, f"{EVENT}{time.time_ns()}", what)


def history(hub: Hub, model_name: str) -> list[Happened]:
    """What happened to the versions of a model, the last thing first."""
    found = [
        Happened(int(name.removeprefix(EVENT)) / 1e9, version.ref, what)
        for version in hub.versions(model_name)
        for name, what in version.tags.items()
        if name.startswith(EVENT)
    ]
    return sorted(found, reverse=True)
