"""A real PostgreSQL for tests: a private cluster that lives as long as a block."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from finetune_service.stack.exceptions import PostgresMissingError
from finetune_service.stack.postgres import Cluster, answers, create_databases
from finetune_service.stack.settings import StackSettings
from tests.waiting import until


@contextlib.contextmanager
def postgres() -> Iterator[URL]:
    """A server's URL, with its password; the test is skipped where there are no binaries."""
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    home.chmod(0o755)  # PostgreSQL does not run as root, and another user must get there
    cluster = Cluster(StackSettings(home=home, postgres_folder=home / "postgres"))
    try:
        cluster.create()
    except PostgresMissingError as missing:
        shutil.rmtree(home)
        pytest.skip(str(missing))
    owner = cluster.owner
    with (home / "postgres.log").open("wb") as log:
        server = subprocess.Popen(
            cluster.command(),
            cwd=cluster.folder,
            user=owner.name if owner else None,
            group=owner.gid if owner else None,
            extra_groups=[] if owner else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: answers(cluster.url()), "PostgreSQL does not answer")
        yield cluster.url()
    finally:
        server.send_signal(signal.SIGINT)  # its fast shutdown
        server.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def new_database(server: URL, name: str) -> URL:
    """Makes a database and gives its URL, with the password."""
    create_databases(server, [name])
    return server.set(database=name)


def without_password(url: URL) -> str:
    """A URL as a config may hold it; the password goes into the environment."""
    os.environ["PGPASSWORD"] = str(url.password)
    named = URL.create(
        url.drivername, username=url.username, database=url.database, query=url.query
    )
    return named.render_as_string()
