"""backup and restore of a home without servers: what is in it, and what is refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
from contextlib import closing

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import OutputError
from finetune_core.jobs import LOCK
from finetune_core.types import new_job_id
from finetune_service.files import FileStore
from finetune_service.jobs import JobRecord
from finetune_service.jobs.store import JobStore
from finetune_service.organizations import Organizations
from finetune_service.upkeep.archive import ENDINGS, MANIFEST, unpack, writing
from finetune_service.upkeep.backup import back_up
from finetune_service.upkeep.contents import Contents
from finetune_service.upkeep.exceptions import DamagedArchiveError, HomeInUseError
from finetune_service.upkeep.removal import held
from finetune_service.upkeep.restore import restore
from finetune_service.upkeep.settings import KeepSettings
from tests.finetune_service.upkeep.test_gc import CONFIG, ended


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    home = tmp_path.parent / f"h{tmp_path.name[-6:]}"  # a home's path is to be short
    monkeypatch.setenv("FINETUNE_HOME", str(home))
    for name in ("FINETUNE_API_URL", "FINETUNE_DATABASE_URL", "FINETUNE_SQLITE"):
        monkeypatch.delenv(name, raising=False)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def filled(home):
    """A home with a key, a file, two jobs and an SQLite database that somebody writes to."""
    organizations = Organizations(home)
    organizations.create("acme")
    organizations.create_key("acme")
    FileStore(home).put("acme", io.BytesIO(b"rows"), filename="a.jsonl", purpose="fine-tune")
    folder = ended(home)
    waiting = JobRecord(id=new_job_id(), name="w", organization="acme", created_at=1, model="tiny")
    JobStore(home).add(waiting, CONFIG)
    mlflow = home / "organizations" / "acme" / "mlflow"
    (mlflow / "artifacts").mkdir(parents=True)
    (mlflow / "artifacts" / ".hidden").write_text("an artifact")
    (home / "organizations" / "acme" / "jobs" / ".half").mkdir()
    (folder / LOCK).touch()
    (home / "stack" / "secrets").mkdir(parents=True)
    (home / "stack" / "secrets" / "one").write_text("secret")
    (home / "stack" / "secrets" / "one").chmod(0o600)
    (home / "stack" / "supervisor.conf").write_text("made anew")
    with closing(sqlite3.connect(mlflow / "mlflow.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE runs (name TEXT)")
        connection.execute("INSERT INTO runs VALUES ('committed')")
        connection.commit()
        connection.execute("INSERT INTO runs VALUES ('not yet')")
        assert (mlflow / "mlflow.db-wal").exists()
        yield home


def names_in(path) -> set[str]:
    with tarfile.open(path) as tar:
        return set(tar.getnames())


def content(home) -> dict[str, tuple[int, bytes | None, int | None]]:
    return {
        str(path.relative_to(home)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else None,
            int(path.stat().st_mtime) if path.is_file() else None,
        )
        for path in home.rglob("*")
        if path.name not in ("upkeep.lock", "files.lock", "keys.lock", LOCK)
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_restored_is_what_was_there(filled, tmp_path, ending):
    made = back_up(tmp_path / f"b{ending}", KeepSettings(), everything=True)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [made.path]
    before = content(filled)
    shutil.rmtree(filled)
    restored = restore(made.path)
    assert restored.aside is None
    after = content(filled)
    database = "organizations/acme/mlflow/mlflow.db"
    left_out = {
        *(f"{database}{name}" for name in ("-wal", "-shm")),
        *("organizations/acme/jobs/.half", "stack/supervisor.conf"),
    }
    assert {name for name in before if name not in after} == left_out
    del before[database], after[database]
    assert after == {name: each for name, each in before.items() if name not in left_out}
    with closing(sqlite3.connect(filled / database)) as connection:
        assert connection.execute("SELECT name FROM runs").fetchall() == [("committed",)]
    assert after["stack/secrets/one"][0] & 0o777 == 0o600
    assert after["organizations/acme"][0] & 0o777 == 0o700


def test_what_gc_could_remove_is_left_out(filled, tmp_path):
    keep = KeepSettings(keep_checkpoint_days=0)
    small, all_ = (
        back_up(tmp_path / name, keep, everything=everything)
        for name, everything in (("small.tar", False), ("all.tar", True))
    )
    assert (small.left_out, all_.left_out) == (1, 0)
    names = [names_in(each.path) for each in (small, all_)]
    gone = names[1] - names[0]
    assert gone
    assert all("/checkpoints" in name for name in gone)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_flipped_bit_is_found_and_nothing_changes(tmp_path, home, ending, share):
    """Almost every byte is a file's: random ones, which no packing makes shorter."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    path = tmp_path / f"b{ending}"
    with writing(path) as writer:
        writer.add("home/keys.json", source)
    whole = bytearray(path.read_bytes())
    whole[int(len(whole) * share)] ^= 4
    path.write_bytes(whole)
    home.mkdir()
    with pytest.raises(DamagedArchiveError):
        restore(path)
    assert content(home) == {}


def test_half_an_archive_and_what_is_none(filled, tmp_path, home):
    made = back_up(tmp_path / "b.tar", KeepSettings())
    whole = made.path.read_bytes()
    shutil.rmtree(filled)
    for damaged in (whole[: len(whole) // 2], b"", b"no archive", whole.replace(b"rows", b"rowz")):
        made.path.write_bytes(damaged)
        with pytest.raises(DamagedArchiveError):
            restore(made.path)
        assert content(home) == {}
    with pytest.raises(OutputError, match="No such file"):
        restore(tmp_path / "none.tar")


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "home/../../out", "link/out"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    path, folder = tmp_path / "b.tar", tmp_path / "folder"
    folder.mkdir()
    with writing(path) as writer:
        link = tmp_path / "link"
        link.symlink_to(tmp_path)
        writer.add("link", link)
        writer.add_bytes(name, b"content")
    with pytest.raises(DamagedArchiveError, match="leads out"):
        unpack(path, folder)
    assert not (tmp_path / "out").exists()


def test_a_home_in_use_is_not_taken(filled, tmp_path):
    made = back_up(tmp_path / "b.tar", KeepSettings())
    before = content(filled)
    with pytest.raises(HomeInUseError, match=r"is not empty: it holds keys\.json") as refused:
        restore(made.path)
    assert "--force" in str(refused.value)
    (job,) = filled.glob(f"organizations/acme/jobs/*/{LOCK}")
    with held(job), pytest.raises(HomeInUseError, match="a process works on ftjob-"):
        restore(made.path, force=True)
    assert content(filled) == before
    restored = restore(made.path, force=True)
    assert content(restored.aside) == before
    assert (filled / "keys.json").read_bytes() == before["keys.json"][1]


def test_another_path_is_refused_with_the_reason(filled, tmp_path, monkeypatch):
    made = back_up(tmp_path / "b.tar", KeepSettings())
    monkeypatch.setenv("FINETUNE_HOME", str(filled.with_name("other")))
    with pytest.raises(OutputError, match="by their whole paths") as refused:
        restore(made.path)
    assert f"FINETUNE_HOME={filled}" in str(refused.value)
    assert content(filled.with_name("other")) == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [("b.zip", "ends with none of .tar"), ("there.tar", "is there already"),
     ("none/b.tar", "not there"), ("HOME/b.tar", "each backup would hold")],
)  # fmt: skip
def test_where_a_backup_cannot_be(filled, tmp_path, name, says):
    (tmp_path / "there.tar").touch()
    target = filled / "b.tar" if name.startswith("HOME") else tmp_path / name
    with pytest.raises(OutputError, match=says):
        back_up(target, KeepSettings())


def test_a_folder_gets_a_file_named_by_the_time(filled, tmp_path):
    made = back_up(tmp_path, KeepSettings())
    assert made.path.parent == tmp_path
    assert made.path.name.startswith("finetune-")
    assert made.path.name.endswith(".tar.zst")
    with pytest.raises(OutputError):
        back_up(made.path, KeepSettings())


def test_what_comes_during_a_live_backup_does_not_contradict_the_databases(filled, tmp_path):
    """The files of a job that ends, and of one that is made, between their two readings."""
    store = JobStore(filled)
    (waiting,) = store.unfinished("acme")
    contents = Contents(filled, frozenset())
    state = {*contents.state()}
    folder = store.folder("acme", waiting.id)
    assert folder / "job.json" in state
    (folder / "outcome.json").write_text("{}")
    late = JobRecord(id=new_job_id(), name="l", organization="acme", created_at=1, model="tiny")
    store.add(late, PipelineConfig.parse({"dataset": {"path": "y"}}))
    rest = [*contents.rest()]
    assert contents.is_state(folder / "outcome.json")
    assert folder / "outcome.json" not in state
    assert not [path for path in rest if late.id in str(path)]
    # Checkpoints before the events that a job going on from them needs; manifests last of all.
    for name in ("checkpoints", "logs"):
        (folder / name).mkdir()
    for name in ("events.jsonl", "checkpoints/manifest.json", "checkpoints/z"):
        (folder / name).touch()
    names = [str(path.relative_to(folder)) for path in contents.rest() if folder in path.parents]
    assert names.index("checkpoints/z") < names.index("checkpoints/manifest.json")
    assert names[-2:] == ["events.jsonl", "logs"]


def test_the_digests_are_the_last_member(filled, tmp_path):
    made = back_up(tmp_path / "b.tar", KeepSettings())
    with tarfile.open(made.path) as tar:
        members = tar.getmembers()
        manifest = json.load(tar.extractfile(members[-1]))
    assert members[0].name == "backup.json"
    assert members[-1].name == MANIFEST
    assert set(manifest["sha256"]) == {each.name for each in members[:-1] if each.isreg()}
    assert all(each.mtime == int(each.mtime) for each in members)
