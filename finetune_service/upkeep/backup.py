"""backup: everything that an installation keeps, in one file."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import finetune_core
from finetune_core.exceptions import OutputError
from finetune_core.types import Record
from finetune_service.api.settings import ApiSettings
from finetune_service.jobs.store import JobStore
from finetune_service.stack import postgres
from finetune_service.stack.settings import StackSettings
from finetune_service.stack.supervision import Supervisor
from finetune_service.upkeep import databases
from finetune_service.upkeep.archive import ENDINGS, Writer, writing
from finetune_service.upkeep.caches import Caches
from finetune_service.upkeep.contents import Contents
from finetune_service.upkeep.old_jobs import OldJobs
from finetune_service.upkeep.removal import Removable, alone
from finetune_service.upkeep.settings import KeepSettings, stack_settings

ABOUT, HOME, DATABASES = "backup.json", "home", "databases"
FORMAT = 1
PARTS = ("prefect", "mlflow")


class About(Record):
    """What a backup says of itself, in its first member."""

    format: int
    created_at: float
    home: Path
    versions: dict[str, str]
    live: bool
    """Whether the stack ran meanwhile."""
    postgres: str | None
    """The version of the server whose dumps are in it; none where there are no dumps."""


class Backup(Record):
    """A backup that was made."""

    path: Path
    bytes: int
    files: int
    left_out: int
    """How many caches and checkpoints that gc could remove are not in it."""
    elsewhere: str | None
    """Where uploaded files are kept, if not in the home: they are not in it."""
    about: About
    seconds: float


def back_up(target: Path, keep: KeepSettings, *, everything: bool = False) -> Backup:
    """Writes a backup, while the stack runs or not.

    Args:
        target: A folder, or the file; its ending says how it is packed.
        keep: The home, and for how long gc keeps what need not be in it.
        everything: Whether what gc could remove is in it too.

    Raises:
        OutputError: The file cannot be there.
        UpkeepInUseError: A gc, a restore or another backup works here.
        DatabaseDumpError: A database could not be dumped.
    """
    start = time.perf_counter()
    home = keep.home.expanduser().absolute()
    path = _file(target, home)
    settings = stack_settings(home)
    with alone(home):
        about = About(
            format=FORMAT,
            created_at=time.time(),
            home=home,
            versions={"finetune": finetune_core.__version__} | {n: version(n) for n in PARTS},
            live=settings is not None and Supervisor(settings).runs(),
            postgres=None,
        )
        left_out = frozenset() if everything else _removable(home, keep, about.created_at)
        cluster = {postgres.Cluster(settings).folder} if settings else set()  # it is dumped
        contents = Contents(home, left_out | cluster)
        try:
            # The folder is private, and dumps are as secret as what they are of.
            with (
                tempfile.TemporaryDirectory(dir=path.parent, prefix=".finetune-") as folder,
                writing(path) as writer,
            ):
                about = _write(writer, contents, about, settings, Path(folder))
                files = writer.files
        except OSError as error:
            raise OutputError(f"{path} is not written: {error}") from None
    return Backup(
        path=path,
        bytes=path.stat().st_size,
        files=files,
        left_out=len(left_out),
        elsewhere=ApiSettings().files_url,
        about=about,
        seconds=time.perf_counter() - start,
    )


def _write(
    writer: Writer,
    contents: Contents,
    about: About,
    settings: StackSettings | None,
    folder: Path,
) -> About:
    """Writes the members in an order in which nothing points to what is not there.

    What points into databases is not newer than they, and what they point to is not older.
    """

    def name_of(path: Path) -> str:
        return f"{HOME}/{path.relative_to(contents.home)}"

    with ExitStack() as stack:
        server = None
        if settings is not None and not settings.sqlite and _has_databases(settings):
            server = stack.enter_context(databases.serving(settings))
            about = about.model_copy(update={"postgres": databases.version(server)})
        writer.add_bytes(ABOUT, about.model_dump_json(indent=2).encode())
        for path in contents.state():
            writer.add(name_of(path), path)
        if settings is not None and server is not None:
            for name in databases.known(server):
                dumped = folder / f"{name}.dump"
                databases.dump(settings, server, name, dumped)
                writer.add(f"{DATABASES}/{dumped.name}", dumped)
                dumped.unlink()
    for path in contents.databases():
        copy = folder / path.name
        databases.copy_sqlite(path, copy)
        copy.chmod(path.stat().st_mode & 0o777)
        writer.add(name_of(path), copy)
        copy.unlink()
    for path in contents.rest():
        # A state that came about since is one that the databases do not know.
        late = contents.is_state(path) and not path.is_dir()
        if name_of(path) not in writer.names and not late:
            writer.add(name_of(path), path)
    return about


def _has_databases(settings: StackSettings) -> bool:
    """Whether the stack was up long enough to have a server."""
    return settings.database_url is not None or postgres.Cluster(settings).data.exists()


def _removable(home: Path, keep: KeepSettings, now: float) -> frozenset[Path]:
    """The caches that no unfinished job names, and the checkpoints that gc would remove."""
    store = JobStore(home)
    found: list[Removable] = []
    at_once = keep.model_copy(update={"keep_cache_days": 0})
    for organization in home.glob("organizations/[!.]*"):
        found += OldJobs(store, organization.name, keep, None, now).find()
        found += Caches(store, organization.name, at_once, now).find()
    return frozenset(each.path for each in found)


def _file(target: Path, home: Path) -> Path:
    """The file that a backup is written to.

    Raises:
        OutputError: It is of no ending that is known, there already, or inside of the home.
    """
    path = target.expanduser().absolute()
    if path.is_dir():
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        path = path / f"finetune-{stamp}.tar.zst"
    problem = None
    if not path.name.endswith(ENDINGS):
        problem = f"is no folder that is there, and ends with none of {', '.join(ENDINGS)}"
    elif path.exists():
        problem = "is there already"
    elif not path.parent.is_dir():
        problem = "lies in a folder that is not there"
    elif path.resolve().is_relative_to(home.resolve()):
        problem = f"lies in {home}, so that each backup would hold those before"
    if problem:
        raise OutputError(f"{path} {problem}", hint="Name another file or folder.")
    return path
