"""restore: a backup becomes the home that it was made of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from finetune_core.exceptions import OutputError
from finetune_core.jobs import LOCK
from finetune_core.types import Record
from finetune_service.stack import postgres
from finetune_service.stack.processes import processes
from finetune_service.stack.settings import StackSettings, load_settings
from finetune_service.stack.supervision import Supervisor
from finetune_service.upkeep import databases
from finetune_service.upkeep.archive import unpack
from finetune_service.upkeep.backup import ABOUT, DATABASES, FORMAT, HOME, About
from finetune_service.upkeep.exceptions import DamagedArchiveError, HomeInUseError
from finetune_service.upkeep.removal import alone, is_held

NEW, CLUSTER = ".new", "pg"  # short: the path of a socket in it has room for 107 bytes
ASIDE = ".before-restore-"
# Made by the command itself before it looks, and in no backup.
ALWAYS_THERE = ("logs", "upkeep.lock")


class Restored(Record):
    """What was restored."""

    home: Path
    aside: Path | None
    """Where what was in the home is now."""
    about: About
    seconds: float


def restore(archive: Path, *, force: bool = False) -> Restored:
    """Puts a backup in place; nothing is changed until all of it is known to be as it was written.

    Args:
        archive: The file.
        force: Whether what is in the home, and in the databases, may be set aside.

    Raises:
        DamagedArchiveError: It is no backup, or not as it was written.
        HomeInUseError: The home is not empty, or somebody works in it.
        OutputError: It is of a home with another path.
        UpkeepInUseError: A gc, a backup or another restore works here.
    """
    start = time.perf_counter()
    settings = load_settings()
    home = settings.home
    with alone(home):
        _check_free(settings, force)
        new = home / NEW
        shutil.rmtree(new, ignore_errors=True)  # what a killed restore left
        new.mkdir(0o755)
        try:
            unpack(archive, new)
            about = _about(new, archive, home)
            suffix = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S")
            aside = home / f"{ASIDE}{suffix}"
            with _databases(settings, about, new, suffix if force else None):
                _place(settings, new, aside)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return Restored(
        home=home,
        aside=aside if aside.exists() else None,
        about=about,
        seconds=time.perf_counter() - start,
    )


def _check_free(settings: StackSettings, force: bool) -> None:
    """Refuses to take a home from under those who work in it, or what is in it without a word."""
    home = settings.home
    if Supervisor(settings).runs() or processes(settings):
        raise HomeInUseError(f"the stack of {home} runs", hint="Stop it: finetune-cli down")
    for lock in home.glob(f"organizations/*/jobs/*/{LOCK}"):
        if is_held(lock):
            raise HomeInUseError(
                f"a process works on {lock.parent.name}", hint="End it, or wait until it has ended."
            )
    if not force and (there := sorted(path.name for path in _contents(settings))):
        raise HomeInUseError(
            f"{home} is not empty: it holds {', '.join(there[:5])}",
            hint="Restore into an empty one, or set what is in it aside by --force.",
        )


def _about(new: Path, archive: Path, home: Path) -> About:
    """What a backup says of itself.

    Raises:
        DamagedArchiveError: It says nothing that is understood here.
        OutputError: It is of a home with another path.
    """
    try:
        about = About.model_validate_json((new / ABOUT).read_bytes())
    except (OSError, ValidationError):
        raise DamagedArchiveError(f"{archive} is no backup of this program") from None
    if about.format != FORMAT:
        raise DamagedArchiveError(
            f"{archive} has the format {about.format}; this program reads {FORMAT}",
            hint=f"Restore it by finetune {about.versions.get('finetune')}.",
        )
    if about.home != home:
        raise OutputError(
            f"{archive} is of {about.home}, and FINETUNE_HOME is {home}: the configs of jobs and "
            "what the databases hold name files by their whole paths",
            hint=f"Set FINETUNE_HOME={about.home}; it may be a link to a folder elsewhere.",
        )
    return about


@contextmanager
def _databases(
    settings: StackSettings, about: About, new: Path, suffix: str | None
) -> Iterator[None]:
    """Has the databases restored, and keeps them if the block ends well."""
    dumps = sorted((new / DATABASES).glob("*.dump"))
    if about.postgres is None:
        yield
        return
    if settings.sqlite:
        raise OutputError(
            "the backup holds PostgreSQL's databases, and FINETUNE_SQLITE is set",
            hint="Unset it: what one database holds, the other does not.",
        )
    # The passwords are those of the backup; the cluster is made where `up` finds it afterwards.
    cluster = settings.postgres_folder or new / CLUSTER
    staged = settings.model_copy(update={"home": new / HOME, "postgres_folder": cluster})
    with _cluster_set_aside(settings, suffix):
        if settings.database_url is None:
            postgres.Cluster(staged).create()
        with (
            databases.serving(staged) as server,
            databases.room(server, suffix and f"before_{suffix}"),
        ):
            for dumped in dumps:
                databases.load(staged, server, dumped.stem, dumped)
        yield


@contextmanager
def _cluster_set_aside(settings: StackSettings, suffix: str | None) -> Iterator[None]:
    """Makes room for a private cluster outside of the home; puts the old one back after a fault."""
    folder = settings.postgres_folder
    if folder is None or settings.database_url is not None:
        yield
        return
    data, aside = folder / "data", folder / f"data.before-restore-{suffix}"
    was_there = data.exists()
    if was_there and suffix is None:
        raise HomeInUseError(
            f"{data} holds a cluster", hint="restore --force sets it aside, in the same folder."
        )
    if was_there:
        data.rename(aside)
    try:
        yield
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        if was_there:
            aside.rename(data)
        raise


def _place(settings: StackSettings, new: Path, aside: Path) -> None:
    """Sets aside what is in the home, and moves what is new there, by renames alone."""
    home = settings.home
    for path in _contents(settings):
        aside.mkdir(0o755, exist_ok=True)
        path.rename(aside / path.name)
    for path in sorted((new / HOME).iterdir()):
        if path.name not in ALWAYS_THERE:
            path.rename(home / path.name)
    if (cluster := new / CLUSTER).exists():
        cluster.rename(home / "postgres")


def _contents(settings: StackSettings) -> list[Path]:
    """What is in a home but for what this command has made itself, and what it has set aside.

    A private cluster at a place of its own makes room by itself, even where that is in the home.
    """
    cluster = settings.postgres_folder
    return [
        path
        for path in settings.home.iterdir()
        if path.name not in (*ALWAYS_THERE, NEW)
        and not path.name.startswith(ASIDE)
        and not (cluster and cluster.absolute().is_relative_to(path))
    ]
