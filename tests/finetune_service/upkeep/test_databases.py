"""Dumping and restoring on a real private PostgreSQL, which is started for it and ended."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from finetune_service.stack import postgres
from finetune_service.stack.processes import processes
from finetune_service.stack.settings import StackSettings
from finetune_service.upkeep import databases
from finetune_service.upkeep.exceptions import DatabaseDumpError, HomeInUseError
from tests.integration.stack import need_postgresql


@pytest.fixture(scope="module")
def settings():
    need_postgresql()
    # pytest's own folders are closed to PostgreSQL's user, and their names long for a socket's.
    home = Path(tempfile.mkdtemp(prefix="upkeep-"))
    home.chmod(0o755)
    settings = StackSettings(home=home)
    postgres.Cluster(settings).create()
    yield settings
    assert not processes(settings)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def server(settings):
    with databases.serving(settings) as server:
        with databases.serving(settings) as again:  # it runs already
            assert again == server
        postgres.create_databases(server)
        yield server


def ask(server, name, statement):
    with closing(psycopg2.connect(postgres.database_url(server, name))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None


def names(server) -> set[str]:
    found = ask(server, "postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate")
    return {name for (name,) in found}


def test_what_is_dumped_comes_back_beside_what_is_set_aside(settings, server, tmp_path):
    before = {"postgres", *databases.NAMES}
    ask(server, postgres.MLFLOW, "CREATE TABLE runs AS SELECT 'then' AS name")
    assert databases.known(server) == {name: name == postgres.MLFLOW for name in databases.NAMES}
    dumped = tmp_path / "mlflow.dump"
    databases.dump(settings, server, postgres.MLFLOW, dumped)
    ask(server, postgres.MLFLOW, "UPDATE runs SET name = 'now'")

    with (
        pytest.raises(HomeInUseError, match="finetune_mlflow are not empty"),
        databases.room(server, None),
    ):
        pass
    with (
        pytest.raises(DatabaseDumpError, match="pg_restore of finetune_mlflow failed"),
        databases.room(server, "aside"),
    ):
        databases.load(settings, server, postgres.MLFLOW, Path(__file__))
    assert names(server) == before
    assert ask(server, postgres.MLFLOW, "SELECT name FROM runs") == [("now",)]

    with databases.room(server, "aside"):
        databases.load(settings, server, postgres.MLFLOW, dumped)
    assert names(server) == {*before, "finetune_mlflow_aside"}
    assert ask(server, postgres.MLFLOW, "SELECT name FROM runs") == [("then",)]
    assert ask(server, "finetune_mlflow_aside", "SELECT name FROM runs") == [("now",)]


def test_a_database_that_is_not_there_is_named(settings, server, tmp_path):
    with pytest.raises(DatabaseDumpError, match='"none" does not exist'):
        databases.dump(settings, server, "none", tmp_path / "none.dump")


def test_a_given_server_is_used_as_it_is_given(settings, server, tmp_path):
    url = postgres.database_url(server, "postgres")
    given = StackSettings(home=settings.home, database_url=url)
    with databases.serving(given) as found:
        assert databases.version(found) == databases.version(server)
        databases.dump(given, found, postgres.PREFECT, tmp_path / "prefect.dump")
    assert (tmp_path / "prefect.dump").stat().st_size > 0
