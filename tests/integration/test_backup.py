"""backup and restore of a whole installation, on real servers with real jobs."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import openai
import pytest

from tests.integration.stack import need_postgresql, stack
from tests.integration.test_service import DATA, FINAL, QUICK, Service, ask, reached, trained
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EVERYTHING_IS_OLD = {
    f"FINETUNE_KEEP_{kind}_DAYS": "0" for kind in ("CHECKPOINT", "JOB", "CACHE", "REQUEST", "LOG")
}


@pytest.fixture(scope="module")
def service():
    need_postgresql()
    with stack() as running:
        yield Service(running)


@pytest.fixture(scope="module")
def uploaded(service) -> str:
    rows = (DATA / "train.jsonl").read_bytes().splitlines(keepends=True)[:256]
    content = ("rows.jsonl", b"".join(rows))
    return service.client().files.create(file=content, purpose="fine-tune").id


def create(client, file_id, **fields):
    hyperparameters = {"n_epochs": fields.pop("epochs"), "batch_size": 16}
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        extra_body={"config": {**QUICK, "training": {"logging_steps": 1}}},
        **fields,
    )


def seen(service, client, model) -> dict[str, object]:
    """What an organisation sees of what it has."""
    content = service.ask("GET", f"/v1/models/{model}/content", "acme").raise_for_status().content
    return {
        "models": [each.id for each in client.models.list()],
        "content": hashlib.sha256(content).hexdigest(),
        "adapters": service.ask("GET", "/v1/hub/adapters", "acme").json(),
        "files": [each.id for each in client.files.list()],
        "jobs": [(each.id, each.status) for each in client.fine_tuning.jobs.list()],
        "runs": len(service.runs("acme")),
        "keys": service.stack.json("key", "list"),
    }


def collect(running) -> list[str]:
    """Removes all that may be removed, as if it were old."""
    collected = running("gc", "--json", **EVERYTHING_IS_OLD)
    assert collected.returncode == 0, collected.stderr
    return [path for each in json.loads(collected.stdout)["removed"] for path in each["paths"]]


def everything_in(home: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mode)
        for path in home.rglob("*")
        if path.is_file() and path.name not in ("finetune.log", "upkeep.lock")
    }


def empty(home: Path) -> None:
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def steps(client, job_id) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)
    return [event.data["step"] for event in events if event.name == "step"]


def test_all_of_it_comes_back(service, uploaded, tmp_path):
    running, client = service.stack, service.client()
    done = reached(client, create(client, uploaded, suffix="orders", epochs=1).id, *FINAL)
    assert done.status == "succeeded", done.error
    paused = create(client, uploaded, suffix="paused", epochs=6)
    trained(client, paused.id)
    ask(client, paused.id, "pause")
    reached(client, paused.id, "paused")
    before = seen(service, client, done.fine_tuned_model)
    begun = steps(client, paused.id)

    running.environment |= {"FINETUNE_KEEP_CHECKPOINT_DAYS": "0"}
    live = running.json("backup", str(tmp_path / "live.tar.zst"))
    assert live["about"]["live"]
    assert live["left_out"]
    removed = collect(running)
    assert any(done.id in path and "checkpoints" in path for path in removed)
    assert not [path for path in removed if paused.id in path]
    assert seen(service, client, done.fine_tuned_model) == before
    archive = Path(live["path"])
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [archive]
    assert running.json("down") == {"handed_back_jobs": 0}
    empty(running.home)

    damaged = tmp_path / "damaged.tar.zst"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    refused = running("restore", str(damaged))
    assert refused.returncode == 2, refused.stderr
    assert everything_in(running.home) == {}

    elsewhere = running("restore", str(archive), FINETUNE_HOME=str(tmp_path / "other"))
    assert elsewhere.returncode == 2
    assert f"FINETUNE_HOME={running.home}" in elsewhere.stderr

    restored = running.json("restore", str(archive))
    assert restored["aside"] is None
    assert not running.processes()
    secrets = running.home / "stack" / "secrets"
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
    assert (running.home / "keys.json").stat().st_mode & 0o777 == 0o600
    assert running.json("up")["key"] is None
    assert seen(service, client, done.fine_tuned_model) == before

    collect(running)
    ask(client, paused.id, "resume")
    resumed = reached(client, paused.id, *FINAL)
    assert resumed.status == "succeeded", resumed.error
    trained_steps = steps(client, paused.id)
    assert trained_steps == [*range(trained_steps[0], 0, -1)]  # each once: none lost, none again
    assert trained_steps[0] > begun[0]
    assert len(service.runs("acme")) == before["runs"]  # its curve goes on in the same run
    sizes = {name: live[name] for name in ("bytes", "files", "seconds")}
    sys.stdout.write(f"{json.dumps(sizes)}, restored in {restored['seconds']:.1f} s\n")


def test_while_the_stack_is_down_and_over_what_is_there(service, tmp_path):
    running = service.stack
    jobs = [(each.id, each.status) for each in service.client().fine_tuning.jobs.list()]
    running.json("down")
    made = running.json("backup", str(tmp_path / "down.tar"))
    assert not made["about"]["live"]
    assert made["about"]["postgres"]
    assert not running.processes()
    organizations = running.json("org", "list")
    running.json("org", "create", "later")
    before = everything_in(running.home)
    refused = running("restore", made["path"])
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert everything_in(running.home) == before
    restored = running.json("restore", made["path"], "--force")
    assert "later" in (Path(restored["aside"]) / "keys.json").read_text()
    assert running.json("org", "list") == organizations
    running.json("up")
    with pytest.raises(openai.AuthenticationError):
        service.client(api_key="sk-ft-wrong").models.list()
    found = service.client().fine_tuning.jobs.list()
    assert [(each.id, each.status) for each in found] == jobs
    again = running("restore", made["path"], "--force")
    assert again.returncode == 2
    assert "finetune-cli down" in again.stderr


def test_a_job_that_runs_goes_on_from_its_last_checkpoint(service, uploaded, tmp_path):
    running, client = service.stack, service.client()
    job = create(client, uploaded, suffix="running", epochs=10)
    trained(client, job.id)
    ask(client, job.id, "checkpoint")
    until(lambda: [*client.fine_tuning.jobs.checkpoints.list(job.id)], "no checkpoint", 120)
    made = running.json("backup", str(tmp_path / "running.tar.gz"))
    running.json("down")
    empty(running.home)
    running.json("restore", made["path"])
    running.json("up")
    ended = reached(client, job.id, *FINAL)
    assert ended.status == "succeeded", ended.error
    events = [*client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert "resumed" in [event.name for event in events]
    last = next(event for event in events if event.name == "step")
    assert last.data["step"] == last.data["total_steps"]
