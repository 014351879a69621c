"""The databases of the stack as files: dumped, and restored where `up` looks for them."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from filelock import FileLock
from psycopg2 import sql
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy.engine import URL

from finetune_service.stack import postgres
from finetune_service.stack.exceptions import PostgresMissingError
from finetune_service.stack.parts import MARK, POSTGRES
from finetune_service.stack.processes import wait_until
from finetune_service.stack.settings import StackSettings
from finetune_service.upkeep.exceptions import DatabaseDumpError, HomeInUseError

NAMES = (postgres.PREFECT, postgres.MLFLOW, postgres.MLFLOW_AUTH)
STOP_SECONDS = 60.0  # a server that ends writes down what it has in memory
SQLITE_HEAD = b"SQLite format 3\0"


@contextmanager
def serving(settings: StackSettings) -> Iterator[URL]:
    """The server of the stack's databases; a private one that does not run is started for this.

    Raises:
        StackError: It does not start.
        PostgresMissingError: There is no PostgreSQL that it could be started by.
    """
    given = postgres.given_url(settings)
    cluster = postgres.Cluster(settings)
    if given is not None or postgres.answers(cluster.url()):
        yield given or cluster.url()
        return
    logs = settings.folder / "logs"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The lock of up and down, so that neither starts a second server on the same files.
    with FileLock(settings.folder / "lock"), (logs / f"{POSTGRES}.log").open("ab") as log:
        process = subprocess.Popen(
            cluster.command(),
            cwd=cluster.folder,
            # Should we be killed, the next `up` ends it as it ends any part that was left.
            env=os.environ | {MARK: str(settings.folder), "SUPERVISOR_PROCESS_NAME": POSTGRES},
            user=cluster.owner.uid if cluster.owner else None,
            group=cluster.owner.gid if cluster.owner else None,
            extra_groups=[] if cluster.owner else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=0o077,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        try:

            def settled() -> bool:
                return process.poll() is not None or postgres.answers(cluster.url())

            if not wait_until(settled, settings.start_seconds) or process.returncode is not None:
                raise DatabaseDumpError(
                    "the private PostgreSQL does not start", hint=f"Its log: {log.name}"
                )
            yield cluster.url()
        finally:
            process.send_signal(signal.SIGINT)  # ends connections too
            process.wait(STOP_SECONDS)


def known(server: URL) -> dict[str, bool]:
    """Those of the stack's databases that a server has, and whether anything is in each."""
    with closing(_connect(server, server.database or "postgres")) as connection:
        names = _values(connection, "SELECT datname FROM pg_database")
    found = {}
    for name in NAMES:
        if name in names:
            with closing(_connect(server, name)) as connection:
                query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' LIMIT 1"
                found[name] = bool(_values(connection, query))
    return found


def version(server: URL) -> str:
    """A server's version."""
    with closing(_connect(server, server.database or "postgres")) as connection:
        return _values(connection, "SHOW server_version")[0].split()[0]


def dump(settings: StackSettings, server: URL, name: str, to: Path) -> None:
    """Dumps a database as it is at one moment.

    Raises:
        DatabaseDumpError: pg_dump fails.
    """
    command = [_program("pg_dump", settings), "--format", "custom", "--no-owner"]
    _run([*command, "--no-privileges", "--file", str(to)], server, name)


def load(settings: StackSettings, server: URL, name: str, dumped: Path) -> None:
    """Restores a database that is there and empty, whole or not at all.

    Raises:
        DatabaseDumpError: pg_restore fails.
    """
    command = [_program("pg_restore", settings), "--no-owner", "--no-privileges"]
    command += ["--exit-on-error", "--single-transaction", str(dumped)]
    _run(command, server, name)


@contextmanager
def room(server: URL, suffix: str | None) -> Iterator[None]:
    """Has a server give new databases to the block: what is there is renamed, if that is allowed.

    Where the block fails, all is as it was before.

    Args:
        server: The server.
        suffix: What the names of those in it get, where they may be set aside.

    Raises:
        HomeInUseError: There is something in them, and it may not be set aside.
    """
    full = [name for name, filled in known(server).items() if filled]
    if full and suffix is None:
        raise HomeInUseError(
            f"the databases {', '.join(full)} are not empty",
            hint="restore --force renames them first.",
        )
    asides = {name: f"{name}_{suffix}" for name in full}
    for name, aside in asides.items():
        _execute(server, "ALTER DATABASE {} RENAME TO {}", name, aside)
    try:
        postgres.create_databases(server)
        yield
    except BaseException:
        for name, aside in asides.items():
            _execute(server, "DROP DATABASE IF EXISTS {}", name)
            _execute(server, "ALTER DATABASE {} RENAME TO {}", aside, name)
        raise


def is_sqlite(path: Path) -> bool:
    """Whether a file is an SQLite database."""
    if path.suffix != ".db":
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEAD)) == SQLITE_HEAD


def copy_sqlite(path: Path, to: Path) -> None:
    """Copies an SQLite database as it is at one moment, also while others write to it."""
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)
        # The copy is one file, whatever beside it the original has.
        target.execute("PRAGMA journal_mode = DELETE")


def _connect(server: URL, name: str) -> psycopg2.extensions.connection:
    try:
        return psycopg2.connect(
            postgres.database_url(server, name), connect_timeout=postgres.CONNECT_SECONDS
        )
    except psycopg2.OperationalError as error:
        raise DatabaseDumpError(f"PostgreSQL does not let us in: {error}".strip()) from None


def _values(connection: psycopg2.extensions.connection, query: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return [str(value) for (value,) in cursor.fetchall()]


def _execute(server: URL, statement: str, *names: str) -> None:
    """Changes something about databases, whose names are filled in."""
    with closing(_connect(server, server.database or "postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
            except psycopg2.Error as error:
                raise DatabaseDumpError(f"PostgreSQL refuses: {error}".strip()) from None


def _run(command: list[str], server: URL, name: str) -> None:
    # A command line is everybody's to read, so the password is not in it.
    parts = parse_dsn(postgres.database_url(server, name))
    password = parts.pop("password", "")
    done = subprocess.run(
        [*command, "--dbname", make_dsn(**parts)],
        env=os.environ | {"PGPASSWORD": password},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        program = Path(command[0]).name
        raise DatabaseDumpError(f"{program} of {name} failed: {done.stderr.strip()[-2000:]}")


def _program(name: str, settings: StackSettings) -> str:
    """A program of PostgreSQL: of the private cluster's version, or for a given server the newest.

    Raises:
        PostgresMissingError: It is not on this machine.
    """
    if settings.database_url is None:
        paths = [str(Path(postgres.Cluster(settings).command()[0]).with_name(name))]
    else:
        paths = [each for where in postgres.BINARIES for each in glob.glob(f"{where}/{name}")]
        paths += [shutil.which(name) or ""]
    paths = [each for each in paths if os.path.exists(each)]
    if not paths:
        raise PostgresMissingError(
            f"there is no {name} on this machine",
            hint="Install PostgreSQL's programs (Debian, Ubuntu: apt install postgresql-client).",
        )
    return max(paths, key=lambda path: float(postgres.version_of(path).partition(".")[0]))
