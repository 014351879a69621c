"""PostgreSQL for both servers: a private cluster from the machine's binaries, or a given URL."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import psutil  # type: ignore[import-untyped]
import psycopg2
from psycopg2 import errors, sql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from finetune_core.exceptions import Fault, InvalidConfigError, OutputError
from finetune_service.stack.exceptions import PostgresMissingError, StackError
from finetune_service.stack.settings import StackSettings

BINARIES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat
    "/opt/homebrew/opt/postgresql@*/bin",  # macOS
    "/usr/local/opt/postgresql@*/bin",
)
ROLE = "finetune"
PREFECT, MLFLOW, MLFLOW_AUTH = "finetune_prefect", "finetune_mlflow", "finetune_mlflow_auth"
CONNECT_SECONDS = 10
ENDING = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class Owner(NamedTuple):
    """The user who runs PostgreSQL, which root may not."""

    name: str
    uid: int
    gid: int


class Cluster:
    """A PostgreSQL of the stack's own: its files, and who runs it.

    Args:
        settings: Where it lies.
    """

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self.folder = (settings.postgres_folder or settings.home / "postgres").absolute()
        self.data = self.folder / "data"
        self.socket = self.folder / "socket"
        self.owner = _owner()

    def command(self) -> list[str]:
        """What starts the server: on a socket only, so that no port is taken."""
        return [
            str(self._binaries() / "postgres"),
            *("-D", str(self.data), "-k", str(self.socket)),
            *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
        ]

    def url(self) -> URL:
        """How to connect to it, with the password."""
        return URL.create(
            "postgresql",
            username=ROLE,
            password=self._settings.secret("postgres-password"),
            database="postgres",
            query={"host": str(self.socket)},
        )

    def create(self) -> None:
        """Makes the cluster if it is not there.

        Raises:
            PostgresMissingError: There are no binaries, or of another version than the cluster's.
            OutputError: The user who runs it cannot reach its folder.
            StackError: initdb failed.
        """
        binaries = self._binaries()
        for folder in (self.folder, self.socket):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.owner:
                os.chown(folder, self.owner.uid, self.owner.gid)
        if self.owner and not _reaches(self.owner, self.folder):
            raise OutputError(
                f"PostgreSQL does not run as root, and the user {self.owner.name}, who runs it "
                f"instead, cannot enter {self.folder}",
                hint="Set FINETUNE_POSTGRES_FOLDER to a folder outside of private ones.",
            )
        if self._version():
            return
        half = self.folder / "data.new"
        shutil.rmtree(half, ignore_errors=True)  # what a killed initdb left
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as password:
            password.write(self._settings.secret("postgres-password"))
            password.flush()
            if self.owner:
                os.chown(password.name, self.owner.uid, self.owner.gid)
            made = subprocess.run(
                [
                    *(str(binaries / "initdb"), "--pgdata", str(half), "--username", ROLE),
                    *("--pwfile", password.name, "--auth", "scram-sha-256"),
                    *("--encoding", "UTF8", "--locale", "C"),
                ],
                cwd=self.folder,
                user=self.owner.name if self.owner else None,
                group=self.owner.gid if self.owner else None,
                extra_groups=[] if self.owner else None,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                umask=0o077,
            )
        if made.returncode:
            raise StackError(f"PostgreSQL's initdb failed: {made.stderr.strip()}")
        half.rename(self.data)

    def is_ending(self) -> bool:
        """Whether the last server was killed, and its process is not quite gone.

        As long as there is one of the number that its lock file names, PostgreSQL does not start.
        """
        try:
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return process.status() in ENDING or not process.cmdline()
        except (OSError, ValueError, IndexError, psutil.Error):
            return False

    def _version(self) -> str | None:
        """The major version that made the cluster, where there is one."""
        file = self.data / "PG_VERSION"
        return file.read_text().strip() if file.exists() else None

    def _binaries(self) -> Path:
        """The folder of the binaries of the cluster's version, or of the newest."""
        found = {_major(folder): folder for folder in _folders()}
        version = self._version()
        if version and version not in found:
            raise PostgresMissingError(
                f"{self.data} was made by PostgreSQL {version}, which is not on this machine",
                hint=f"Install postgresql-{version}, or move the folder away to start anew.",
            )
        if not found:
            raise PostgresMissingError(
                "there is no PostgreSQL on this machine",
                hint="Install it (Debian and Ubuntu: apt install postgresql; macOS: brew install "
                "postgresql), or set FINETUNE_DATABASE_URL, or start a single-user stack by "
                "--sqlite.",
            )
        return found[version or max(found, key=float)]


def given_url(settings: StackSettings) -> URL | None:
    """The server that FINETUNE_DATABASE_URL names, or None.

    Raises:
        InvalidConfigError: It is no URL of a PostgreSQL; its text is not repeated.
    """
    if settings.database_url is None:
        return None
    try:
        url = make_url(settings.database_url.get_secret_value())
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in ("postgresql", "postgres") or not url.database:
        problem = "must be as postgresql://user:password@host/database"
        raise InvalidConfigError([Fault("FINETUNE_DATABASE_URL", problem)])
    return url.set(drivername="postgresql")


def database_url(server: URL, database: str, driver: str = "postgresql") -> str:
    """The URL of one database of a server, with the password in it."""
    # rendered by hand: SQLAlchemy leaves a socket's path as it is, and MLflow takes it for a host
    user = f"{quote(server.username or '', safe='')}:{quote(str(server.password or ''), safe='')}"
    port = f":{server.port}" if server.port else ""
    options = dict(server.query)
    if driver.endswith("asyncpg") and "sslmode" in options:
        options["ssl"] = options.pop("sslmode")  # its own name for the same
    query = f"?{urlencode(options, doseq=True)}" if options else ""
    return f"{driver}://{user}@{server.host or ''}{port}/{database}{query}"


def create_databases(server: URL, names: Iterable[str] = (PREFECT, MLFLOW, MLFLOW_AUTH)) -> str:
    """Makes the databases that are not there.

    Returns:
        The server's version.

    Raises:
        StackError: It does not answer, or does not let us.
    """
    try:
        connection = psycopg2.connect(
            database_url(server, server.database or "postgres"), connect_timeout=CONNECT_SECONDS
        )
    except psycopg2.OperationalError as error:
        raise StackError(
            f"PostgreSQL does not let us in: {error}".strip(),
            hint="Check FINETUNE_DATABASE_URL." if not server.query.get("host") else None,
        ) from None
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            known = {name for (name,) in cursor.fetchall()}
            for name in set(names) - known:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            cursor.execute("SHOW server_version")
            return str(cursor.fetchone()[0]).split()[0]
    except errors.InsufficientPrivilege:
        raise StackError(
            f"the user {server.username} may not create databases",
            hint=f"Have somebody who may create {', '.join(sorted(names))}, owned by that user.",
        ) from None
    finally:
        connection.close()


def answers(server: URL) -> bool:
    """Whether the server takes connections."""
    try:
        url = database_url(server, server.database or "postgres")
        psycopg2.connect(url, connect_timeout=CONNECT_SECONDS).close()
    except psycopg2.OperationalError:
        return False
    return True


def version_of(binary: str) -> str:
    """The version of a `postgres`: 15.14."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[2]


def _folders() -> list[Path]:
    found = [Path(folder) for pattern in BINARIES for folder in glob.glob(pattern)]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    return [folder for folder in found if (folder / "initdb").exists()]


def _major(folder: Path) -> str:
    """The major version of the binaries in a folder: 15."""
    return version_of(str(folder / "postgres")).partition(".")[0]


def _owner() -> Owner | None:
    """Who runs PostgreSQL where we are root: Debian's own user for it, or nobody."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(name, user.pw_uid, user.pw_gid)
    return None


def _reaches(owner: Owner, folder: Path) -> bool:
    """Whether a user can enter a folder, through all that it lies in."""
    tried = subprocess.run(
        ["/usr/bin/test", "-w", str(folder)],
        cwd="/",
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
    )
    return tried.returncode == 0
