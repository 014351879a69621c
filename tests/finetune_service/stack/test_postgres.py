from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sqlalchemy.engine import make_url

from finetune_core.exceptions import InvalidConfigError
from finetune_service.stack import postgres
from finetune_service.stack.exceptions import PostgresMissingError
from finetune_service.stack.settings import load_settings


def test_where_there_is_no_postgresql_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres, "BINARIES", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PostgresMissingError) as error:
        postgres.Cluster(load_settings(home=tmp_path.parent / "h")).command()
    assert "apt install postgresql" in str(error.value)
    assert "--sqlite" in str(error.value)


def test_a_cluster_of_a_version_that_is_gone_is_left_alone(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("7\n")
    cluster = postgres.Cluster(load_settings(home=tmp_path.parent / "h", postgres_folder=tmp_path))
    with pytest.raises(PostgresMissingError, match="postgresql-7"):
        cluster.create()


@pytest.mark.parametrize("url", ["mysql://u:hidden@h/d", "postgresql://u:hidden@h", "nonsense"])
def test_a_url_of_something_else_is_refused_without_repeating_it(url):
    with pytest.raises(InvalidConfigError, match="FINETUNE_DATABASE_URL") as error:
        postgres.given_url(load_settings(home="/h", database_url=url))
    assert "hidden" not in str(error.value)


def test_each_driver_gets_the_url_as_it_takes_it():
    server = make_url("postgresql://u:p%40ss@h:5433/d?sslmode=require")
    assert postgres.database_url(server, "x") == "postgresql://u:p%40ss@h:5433/x?sslmode=require"
    assert (
        postgres.database_url(server, "x", "postgresql+asyncpg")
        == "postgresql+asyncpg://u:p%40ss@h:5433/x?ssl=require"
    )
    private = make_url("postgresql://u:p@/d?host=/a b/socket")
    assert postgres.database_url(private, "x") == "postgresql://u:p@/x?host=%2Fa+b%2Fsocket"


def test_a_killed_server_is_ending_until_somebody_has_heard_of_it(tmp_path):
    cluster = postgres.Cluster(load_settings(home=tmp_path.parent / "h", postgres_folder=tmp_path))
    assert not cluster.is_ending()
    cluster.data.mkdir(parents=True)
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (cluster.data / "postmaster.pid").write_text(f"{server.pid}\n{cluster.data}\n")
    try:
        assert not cluster.is_ending()  # it runs
        server.kill()
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
        assert cluster.is_ending()
    finally:
        server.communicate()
    assert not cluster.is_ending()
