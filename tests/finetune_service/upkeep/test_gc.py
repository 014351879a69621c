"""gc on folders that real jobs have made, and on what is left of those that are over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from finetune_core.config import PipelineConfig
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import HubUnavailableError, InvalidConfigError
from finetune_core.hub import open_hub
from finetune_core.hub.bases import register_base
from finetune_core.hub.lineage import trace_base
from finetune_core.hub.ports import NewVersion
from finetune_core.jobs import LOCK, open_job, working_on
from finetune_core.storage import is_whole
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.types import new_job_id
from finetune_service.exceptions import NotFoundError
from finetune_service.files import FileStore, Uploads
from finetune_service.hub import Catalog
from finetune_service.jobs import JobRecord, Status
from finetune_service.jobs.models import Models
from finetune_service.jobs.record import Outcome, Registered
from finetune_service.jobs.store import JobStore
from finetune_service.sdk import FineTuningJob
from finetune_service.upkeep.caches import Caches
from finetune_service.upkeep.exceptions import UpkeepInUseError
from finetune_service.upkeep.gc import collect
from finetune_service.upkeep.old_jobs import OldJobs
from finetune_service.upkeep.removal import alone, held
from finetune_service.upkeep.settings import DAY, KeepSettings, load_keep_settings
from tests.conftest import ROOT
from tests.finetune_service.sdk.small import asked

CONFIG = PipelineConfig.parse({"dataset": {"path": "x.jsonl"}})
AT_ONCE = {f"keep_{kind}_days": 0.0 for kind in ("checkpoint", "job", "cache", "request", "log")}
LATER = 365 * DAY


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("FINETUNE_HOME", str(home))
    monkeypatch.delenv("FINETUNE_API_URL", raising=False)
    return home


def kinds(collected) -> list[str]:
    return sorted(each.kind for each in collected.removed)


def snapshot(home) -> set[str]:
    return {
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.name not in ("upkeep.lock", "files.lock", LOCK)
    }


def ended(home, status=Status.FAILED, *, age=0.0, checkpoints=("step-00000001",), run_id=None):
    """A job that has ended some time ago, as its folder tells."""
    store = JobStore(home)
    record = JobRecord(id=new_job_id(), name="one", organization="acme", created_at=1, model="tiny")
    store.add(record, CONFIG)
    folder = store.folder("acme", record.id)
    for name in checkpoints:
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "optimizer.pt").write_bytes(b"x" * 1000)
    registered = None
    if run_id:
        (folder / "tracking").mkdir()
        (folder / "tracking" / "run_id").write_text(json.dumps(run_id))
        registered = Registered(model_name="one", version=1, run_id=run_id)
    finished = time.time() - age
    store.finish(record, Outcome(status=status, finished_at=finished, registered=registered))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_jobs_keep_what_they_need(home, monkeypatch):
    """One job succeeds, another is paused; it is collected as if a year had passed."""
    # Each job starts a Prefect server of its own, for which a busy machine takes longer.
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    done = FineTuningJob(**asked(suffix="done"))
    done.start()
    assert done.wait(240).status is Status.SUCCEEDED
    paused = FineTuningJob(
        **asked(suffix="paused", hyperparameters={"epochs": 6, "batch_size": 16})
    )
    paused.start()
    next(event for event in paused.events(follow=True) if event.name == "step")
    paused.pause()
    assert paused.wait(120).status is Status.PAUSED
    other = FineTuningJob(
        **asked(suffix="other", config={**asked()["config"], "dataset": {"max_samples": 48}})
    )
    other.start()
    assert other.wait(240).status is Status.SUCCEEDED

    keep, before = KeepSettings(**AT_ONCE), snapshot(home)
    jobs = home / "organizations" / "local" / "jobs"
    kept = len(Checkpoints(jobs / paused.id / "checkpoints").all())
    found = collect(keep, dry_run=True, now=time.time() + LATER)
    assert snapshot(home) == before
    removed = collect(keep, now=time.time() + LATER)
    assert [each._replace(bytes=0) for each in removed.removed] == [
        each._replace(bytes=0) for each in found.removed
    ]
    assert removed.problems == {}
    # The rows of `done` are those of `paused` too; only those of `other` are nobody's any more.
    assert kinds(removed).count("cache") == 2
    assert not [each for each in removed.removed if paused.id in str(each.path)]
    for job in (done, other):
        assert Checkpoints(jobs / job.id / "checkpoints").all() == []
        assert is_whole(jobs / job.id / "adapter")
    assert len(Checkpoints(jobs / paused.id / "checkpoints").all()) == kept
    assert kinds(collect(keep, now=time.time() + LATER)) == []

    assert done.get_model() == str(jobs / done.id / "adapter")
    assert done.get_status().status is Status.SUCCEEDED
    models = Models(JobStore(home), "local")
    for model in models.list():
        names = {file.name for file in models.files(model)}
        assert {"README.md", "adapter_model.safetensors"} <= names
        assert b"README.md" in b"".join(models.archive(model))
    assert len([*Catalog(open_hub("local")).adapters()]) == 2

    paused.resume()
    assert paused.wait(240).status is Status.SUCCEEDED
    steps = [event.data["step"] for event in paused.events() if event.name == "step"]
    assert steps == [*range(1, steps[-1] + 1)]
    # A model that was deleted may come back, and its job is kept until it is purged.
    catalog = Catalog(open_hub("local"))
    catalog.delete_adapter("other", force=True)
    assert "job" not in kinds(collect(keep, now=time.time() + LATER))
    catalog.versions.purge("other@1")
    last = collect(keep, now=time.time() + LATER)
    assert [each.path.name for each in last.removed if each.kind == "job"] == [other.id]
    assert not (jobs / other.id).exists()
    assert (jobs / done.id).exists()


def test_what_is_young_is_kept(home):
    folder = ended(home, age=DAY)
    assert collect(load_keep_settings()).removed == []
    assert (
        collect(load_keep_settings(), now=time.time() + 20 * DAY).removed[0].kind == "checkpoints"
    )
    assert not (folder / "checkpoints").exists()
    assert [each.path for each in collect(KeepSettings(), now=time.time() + LATER).removed] == [
        folder
    ]


def test_a_job_without_an_outcome_is_never_touched(home):
    folder = ended(home)
    (folder / "outcome.json").unlink()
    os.utime(folder, (0, 0))
    before = snapshot(home)
    assert collect(KeepSettings(**AT_ONCE), now=time.time() + LATER).removed == []
    (folder / "outcome.json").write_text("{torn")
    assert collect(KeepSettings(**AT_ONCE), now=time.time() + LATER).removed == []
    assert snapshot(home) == before | {str((folder / "outcome.json").relative_to(home))}


def test_a_job_that_somebody_works_on_is_left_alone(home):
    folder = ended(home)
    before = snapshot(home)
    with held(folder / LOCK) as free:
        assert free
        assert collect(KeepSettings(**AT_ONCE), now=time.time() + LATER).removed == []
    assert snapshot(home) == before
    assert kinds(collect(KeepSettings(**AT_ONCE), now=time.time() + LATER)) == ["job"]


def test_a_job_that_begins_between_finding_and_removing_is_left_alone(home):
    """The lock is free again by then, but its outcome is gone: it was interrupted."""
    folder = ended(home)
    jobs = OldJobs(JobStore(home), "acme", KeepSettings(**AT_ONCE), None, time.time() + LATER)
    found = [*jobs.find()]
    assert [each.kind for each in found] == ["checkpoints"]
    (folder / "outcome.json").unlink()
    assert jobs.remove(found) == []
    assert (folder / "checkpoints").exists()


def test_a_running_shells_rows_are_kept_until_it_has_told_of_them(home):
    job = open_job(CONFIG, "acme")
    rows = home / "organizations" / "acme" / "cache" / "tokens" / ("a" * 64)
    rows.mkdir(parents=True)
    (rows / "record.json").write_text('{"digest": "d"}')
    os.utime(rows / "record.json", (0, 0))
    os.utime(rows, (0, 0))
    keep = KeepSettings()
    with working_on(job):
        assert kinds(collect(keep)) == []
    assert kinds(collect(keep, dry_run=True)) == ["cache"]
    event = {"name": "stage_ended", "data": {"stage": "tokenize", "digest": "d"}}
    job.events.write_text(json.dumps(event) + "\n")
    assert kinds(collect(keep)) == []


def test_rows_that_a_job_finds_while_they_are_removed_come_back(home):
    rows = home / "organizations" / "acme" / "cache" / "tokens" / ("a" * 64)
    rows.mkdir(parents=True)
    (rows / "record.json").write_text('{"digest": "d"}')
    caches = Caches(JobStore(home), "acme", KeepSettings(**AT_ONCE), time.time() + LATER)
    found = [*caches.find()]
    assert [each.path for each in found] == [rows]
    job = open_job(CONFIG, "acme")
    event = {"name": "stage_ended", "data": {"stage": "tokenize", "digest": "d"}}
    job.events.write_text(json.dumps(event) + "\n")
    assert caches.remove(found) == []
    assert (rows / "record.json").exists()
    assert [*rows.parent.iterdir()] == [rows]


def test_where_the_hub_is_away_no_jobs_folder_goes(home, monkeypatch):
    old = ended(home, run_id="run")
    never_registered = ended(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    collected = collect(KeepSettings(**AT_ONCE), now=time.time() + LATER)
    assert isinstance(collected.problems["acme"], HubUnavailableError)
    assert old.exists()
    assert not never_registered.exists()  # of which no hub can know
    assert kinds(collected) == ["checkpoints", "job"]
    done = subprocess.run(
        [sys.executable, "-m", "finetune_service.cli", "gc", "--json"],
        env=os.environ | {"FINETUNE_KEEP_JOB_DAYS": "0"},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "does not answer" in json.loads(done.stdout)["problems"]["acme"]
    assert old.exists()


def test_a_jobs_base_is_not_what_the_job_has_made(home, tmp_path, tiny_base):
    """A job registers its base with its own run, and the base outlives what the job has made."""
    hub = open_hub("acme")
    run_id = hub.start_run("one", {})
    base = trace_base(ModelConfig(name=str(tiny_base)))
    register_base(hub, run_id, base, tmp_path / "base")
    folder = ended(home, run_id=run_id)
    made = hub.register(run_id, tmp_path / "base", NewVersion("one", "a", "lora", {}, ""))
    keep = KeepSettings(**AT_ONCE)
    collect(keep, now=time.time() + LATER)
    assert folder.exists()
    hub.delete("one", made.version)
    collect(keep, now=time.time() + LATER)
    assert not folder.exists()


def test_files_and_uploads_whose_time_is_over(home):
    now = [time.time()]
    files = FileStore(home, now=lambda: now[0])
    uploads = Uploads(files, 1000)

    def put(content, lifetime=None):
        with files.incoming("acme") as incoming:
            incoming.write(content)
            return files.add(
                "acme", incoming, filename="a.jsonl", purpose="fine-tune", lifetime=lifetime
            )

    kept, expired, needed = put(b"kept"), put(b"expired", 3600), put(b"needed", 3600)
    abandoned = uploads.create("acme", filename="b", purpose="fine-tune", size=4)
    with uploads.incoming("acme") as incoming:
        incoming.write(b"part")
        uploads.add_part("acme", abandoned.id, incoming)
    lost = home / "organizations" / "acme" / "files" / "incoming" / "incoming-1"
    lost.write_bytes(b"lost")
    nameless = home / "organizations" / "acme" / "files" / "content" / ("f" * 64) / "data"
    nameless.parent.mkdir()
    nameless.write_bytes(b"nobody's")
    for path in (lost, nameless):
        os.utime(path, (now[0] - 2 * DAY,) * 2)
    store = JobStore(home)
    waiting = JobRecord(
        id=new_job_id(), name="w", organization="acme", created_at=1, model="tiny",
        training_file=needed.id,
    )  # fmt: skip
    store.add(waiting, CONFIG)

    later = now[0] + DAY / 2
    found = collect(KeepSettings(), now=later, dry_run=True)
    assert kinds(found) == ["file", "file", "upload", "upload"]
    assert collect(KeepSettings(), now=later).removed == found.removed
    now[0] = later
    assert files.open("acme", kept).read() == b"kept"
    assert files.open("acme", needed).read() == b"needed"
    with pytest.raises(NotFoundError):
        files.open("acme", expired)
    assert uploads.get("acme", abandoned.id).status == "expired"
    assert not lost.exists()
    assert not nameless.parent.exists()
    assert collect(KeepSettings(), now=later).removed == []


def test_what_killed_processes_and_commands_have_left(home):
    ended(home)
    acme = home / "organizations" / "acme"
    JobStore(home).request("acme", "key", job_id="ftjob-x", request="digest")
    left = [
        acme / "jobs" / ".ftjob-half",
        acme / "cache" / "data" / ".half",
        acme / "evaluations" / "0f",
        home / "logs" / "finetune.log.1",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.suffix == "" or path.name.startswith(".") else path.touch()
    (home / "logs" / "finetune.log").touch()
    assert collect(KeepSettings()).removed == []
    (request,) = (acme / "requests").iterdir()
    for path in (*left, request):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    removed = collect(KeepSettings())
    assert kinds(removed) == ["half-made", "half-made", "log", "request", "work"]
    assert not [path for path in (*left, request) if path.exists()]
    assert (home / "logs" / "finetune.log").exists()


def test_only_one_organisations_if_so_told(home):
    ended(home, age=20 * DAY)
    assert kinds(collect(load_keep_settings(), organization="acme", dry_run=True)) == [
        "checkpoints"
    ]
    FileStore(home).private("other")
    assert collect(load_keep_settings(), organization="other").removed == []
    with pytest.raises(NotFoundError, match="no organisation nobody"):
        collect(load_keep_settings(), organization="nobody")


def test_one_at_a_time(home):
    with alone(home), pytest.raises(UpkeepInUseError, match="works on"):
        collect(load_keep_settings())


def test_wrong_settings_are_named(monkeypatch):
    monkeypatch.setenv("FINETUNE_KEEP_JOB_DAYS", "-1")
    with pytest.raises(InvalidConfigError, match="FINETUNE_KEEP_JOB_DAYS"):
        load_keep_settings()


def test_the_command_shows_a_table(home):
    ended(home, age=20 * DAY)
    command = [sys.executable, "-m", "finetune_service.cli", "gc"]
    shown = [
        subprocess.run(
            [*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for flags in (["--dry-run"], [], [])
    ]
    assert "checkpoints" in shown[0]
    assert "would be removed" in shown[0]
    assert shown[1] == shown[0].replace("would be", "were")
    assert shown[2] == "0 bytes were removed\n"
