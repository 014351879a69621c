"""What every hub keeps to: the fake in memory, and MLflow on a real SQLite file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from finetune_core.config import Settings
from finetune_core.exceptions import HubError, HubUnavailableError, VersionNotFoundError
from finetune_core.hub import open_hub
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import NewVersion, Point, Version
from finetune_core.hub.tracking import Tracking
from finetune_core.types import Job


def seen_in_memory(hub, run_id):
    run = hub.runs[run_id]
    return SimpleNamespace(
        name=run.name,
        tags=run.tags,
        status=run.status,
        params=run.params,
        points=[tuple(point[:3]) for point in run.points],
        files=run.files,
        tables=run.tables,
        datasets=[(each["name"], each["digest"], each["context"]) for each in run.datasets],
    )


def seen_in_mlflow(uri, run_id):
    """Reads the run as any other user of MLflow would."""
    client = mlflow.MlflowClient(uri, uri)
    run = client.get_run(run_id)
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    files = {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    tables = {
        name: [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        for name, content in files.items()
        if name.endswith(".json")
        for table in [json.loads(content)]
    }
    datasets = [
        (each.dataset.name, tags["sha256"], tags["mlflow.data.context"])
        for each in run.inputs.dataset_inputs
        for tags in [{tag.key: tag.value for tag in each.tags}]
    ]
    return SimpleNamespace(
        name=run.info.run_name,
        tags=run.data.tags,
        status=run.info.status,
        params=run.data.params,
        points=[
            (each.key, each.value, each.step)
            for name in sorted(run.data.metrics)
            for each in client.get_metric_history(run_id, name)
        ],
        files={name: content for name, content in files.items() if name not in tables},
        tables=tables,
        datasets=datasets,
    )


@pytest.fixture(scope="module", params=["memory", "mlflow"])
def place(request, tmp_path_factory):
    """A hub, and how a run in it is read."""
    if request.param == "memory":
        hub = MemoryHub()
        yield SimpleNamespace(hub=hub, see=lambda run_id: seen_in_memory(hub, run_id))
        return
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(home))
        hub = MlflowHub(Settings(), "acme")
    uri = f"sqlite:///{home}/organizations/acme/mlflow/mlflow.db"
    yield SimpleNamespace(hub=hub, see=lambda run_id: seen_in_mlflow(uri, run_id))


@pytest.fixture
def hub(place):
    return place.hub


@pytest.fixture
def run_id(hub):
    return hub.start_run("a run", {"job_id": "ftjob-1"})


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "deep" / "weights.bin").write_bytes(bytes(range(256)))
    return folder


@pytest.fixture
def register(hub, adapter, request):
    def register(run_id, alias="candidate", folder=adapter, name=f"model-{request.node.name}"):
        name = name.replace("[", "-").replace("]", "")
        new = NewVersion(name, alias, "lora", {"base": "tiny"}, "what it is")
        return hub.register(run_id, folder, new)

    return register


class TestHub:
    def test_a_run_has_its_name_and_tags_and_ends_with_a_status(self, hub, place, run_id):
        assert place.see(run_id).name == "a run"
        assert place.see(run_id).tags["job_id"] == "ftjob-1"
        assert place.see(run_id).status == "RUNNING"
        hub.end_run(run_id, "FAILED")
        assert place.see(run_id).status == "FAILED"

    def test_two_runs_of_a_name_are_two(self, hub, run_id):
        assert hub.start_run("a run", {}) != run_id

    def test_a_run_is_found_by_a_tag(self, hub):
        first = hub.start_run("a run", {"job_id": "ftjob-found"})
        hub.start_run("a run", {"job_id": "ftjob-other"})
        assert hub.find_run("job_id", "ftjob-found") == first
        assert hub.find_run("job_id", "ftjob-nobody") is None

    def test_a_run_gets_another_tag(self, hub, place, run_id):
        hub.tag_run(run_id, "pruned", "true")
        assert place.see(run_id).tags["pruned"] == "true"

    def test_params_are_kept_as_text(self, hub, place, run_id):
        hub.log_params(run_id, {"rate": 0.5, "none": None, "list": ["a"]})
        assert place.see(run_id).params == {"rate": "0.5", "none": "None", "list": "['a']"}

    def test_more_params_than_fit_in_a_call_all_arrive(self, hub, place, run_id):
        hub.log_params(run_id, {f"p{number}": number for number in range(250)})
        assert place.see(run_id).params == {f"p{number}": str(number) for number in range(250)}

    def test_params_may_be_told_again_but_not_changed(self, hub, place, run_id):
        for _ in range(2):
            hub.log_params(run_id, {"a": 1})
        with pytest.raises(HubError):
            hub.log_params(run_id, {"a": 2})
        assert place.see(run_id).params == {"a": "1"}

    def test_points_are_kept_in_order(self, hub, place, run_id):
        points = [Point("loss", 1 / (step + 1), step, 1e9 + step) for step in range(2500)]
        hub.log_points(run_id, points)
        assert place.see(run_id).points == [tuple(point[:3]) for point in points]

    def test_files_lie_in_their_folders_byte_by_byte(self, hub, place, run_id, tmp_path):
        (tmp_path / "ledger.bin").write_bytes(b"\x00\xff\r\n")
        hub.log_file(run_id, tmp_path / "ledger.bin")
        hub.log_file(run_id, tmp_path / "ledger.bin", "data")
        content = b"\x00\xff\r\n"
        assert place.see(run_id).files == {"ledger.bin": content, "data/ledger.bin": content}

    def test_a_table_is_kept_row_by_row(self, hub, place, run_id):
        rows = [{"row": 1, "answer": "ä|\n"}, {"row": 2, "answer": ""}]
        hub.log_table(run_id, rows, "samples.json")
        assert place.see(run_id).tables == {"samples.json": rows}

    def test_a_dataset_is_kept_with_its_whole_digest(self, hub, place, run_id):
        facts = {"name": "rows.jsonl", "digest": "0123456789abcdef" * 4, "context": "training"}
        hub.log_dataset(run_id, source="/data/rows.jsonl", **facts)
        assert place.see(run_id).datasets == [tuple(facts.values())]

    def test_sampling_the_machine_leaves_no_thread_behind(self, hub, run_id):
        before = set(threading.enumerate())
        with hub.system_metrics(run_id):
            pass
        assert set(threading.enumerate()) == before

    def test_a_registered_folder_is_version_1_with_its_tags_and_alias(self, register, run_id):
        version = register(run_id)
        assert (version.version, version.run_id, version.aliases) == (1, run_id, ["candidate"])
        assert version.tags == {"base": "tiny"}
        assert version.uri == f"models:/{version.model_name}/1"

    def test_a_run_registered_twice_has_one_version(self, hub, register, run_id):
        first = register(run_id)
        assert register(run_id) == first
        assert hub.versions(first.model_name) == [first]

    def test_a_second_run_is_version_2_and_takes_the_alias(self, hub, register, run_id):
        first = register(run_id)
        second = register(hub.start_run("another", {}))
        name = first.model_name
        assert second.version == 2
        assert hub.get(name, "candidate") == second
        assert hub.get(name, 1) == first._replace(aliases=[])
        assert hub.get(name, "2") == second
        assert [each.version for each in hub.versions(name)] == [2, 1]

    def test_an_alias_can_be_moved_back_and_a_version_can_have_two(self, hub, register, run_id):
        first = register(run_id)
        register(hub.start_run("another", {}))
        register(run_id, "candidate")
        register(run_id, "best")
        assert hub.get(first.model_name, "candidate").version == 1
        assert sorted(hub.get(first.model_name, "best").aliases) == ["best", "candidate"]

    def test_one_run_can_be_registered_under_two_names(self, register, run_id):
        assert register(run_id, name="one-name").version == 1
        assert register(run_id, name="other-name").model_name == "other-name"

    @pytest.mark.parametrize("name", ["base.tiny", "Qwen2.5-0.5B-orders"])
    def test_a_name_may_have_dots(self, hub, register, run_id, adapter, tmp_path, name):
        version = register(run_id, name=name)
        assert hub.versions(name) == [version]
        assert hub.fetch(version, "adapter_config.json", tmp_path).read_text() == "{}"

    def test_without_an_alias_none_points_to_it(self, hub, register, run_id):
        first = register(run_id, alias=None)
        assert first.aliases == []
        assert register(run_id, alias=None) == first

    def test_a_version_that_is_not_there_is_missed(self, hub, register, run_id):
        name = register(run_id).model_name
        for version in (2, "2"):
            with pytest.raises(VersionNotFoundError):
                hub.get(name, version)
        for version in (1, "candidate"):
            with pytest.raises(VersionNotFoundError):
                hub.get("nobody-s", version)
        assert hub.versions("nobody-s") == []

    def test_an_alias_that_is_not_there_is_missed(self, hub, register, run_id, request):
        name = register(run_id).model_name
        with pytest.raises(VersionNotFoundError):
            hub.get(name, "nobody-s")

    def test_all_versions_are_listed_the_newest_first(self, hub, register, run_id):
        first = register(run_id, name="listed-a")
        second = register(hub.start_run("another", {}), name="listed-b")
        found = [each for each in hub.versions() if each.model_name.startswith("listed-")]
        assert sorted(found) == [first, second]
        assert found == sorted(found, key=lambda each: each.created_at, reverse=True)
        assert abs(first.created_at - time.time()) < 60
        assert first.ref == "listed-a@1"

    def test_a_deleted_version_is_gone_with_its_aliases_and_its_number(self, hub, register, run_id):
        name = register(run_id).model_name
        second = register(hub.start_run("another", {}))
        hub.delete(name, 2)
        assert [each.version for each in hub.versions(name)] == [1]
        for version in (2, "candidate"):
            with pytest.raises(VersionNotFoundError):
                hub.get(name, version)
        third = register(hub.start_run("one more", {}))
        assert (second.version, third.version) == (2, 3)

    def test_a_deleted_model_is_gone_with_its_versions(self, hub, register, run_id):
        name = register(run_id).model_name
        hub.delete(name)
        assert hub.versions(name) == []
        with pytest.raises(VersionNotFoundError):
            hub.get(name, 1)

    def test_what_is_not_there_cannot_be_deleted(self, hub, register, run_id):
        name = register(run_id).model_name
        for missing in ((name, 7), ("nobody-s", 1), ("nobody-s", None)):
            with pytest.raises(VersionNotFoundError):
                hub.delete(*missing)

    def test_params_come_back_as_text(self, hub, run_id):
        hub.log_params(run_id, {"rank": 16, "path": "a/b"})
        assert hub.params(run_id) == {"rank": "16", "path": "a/b"}
        with pytest.raises(HubError):
            hub.params("nobody-s")

    def test_a_download_has_the_same_bytes(self, hub, register, run_id, adapter, tmp_path):
        folder = hub.download(register(run_id), tmp_path / "fetched")
        found = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert found == {"adapter_config.json": b"{}", "deep/weights.bin": bytes(range(256))}

    def test_a_download_of_a_version_that_is_not_there_is_refused(self, hub, tmp_path, request):
        version = Version("nobody-s", 1, "models:/nobody-s/1", "", {}, [])
        with pytest.raises(VersionNotFoundError):
            hub.download(version, tmp_path / "fetched")

    def test_a_run_that_is_not_there_is_refused(self, hub, request):
        with pytest.raises(HubError):
            hub.log_params("nobody-s", {"a": 1})

    def test_a_file_that_is_not_there_is_not_blamed_on_the_hub(
        self, hub, run_id, tmp_path, request
    ):
        with pytest.raises(FileNotFoundError):
            hub.log_file(run_id, tmp_path / "nope")


def test_what_mlflow_keeps_is_there_for_another_process(tmp_path, adapter, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    hub = open_hub("acme")
    new = NewVersion("m", "a", "lora", {}, "")
    version = hub.register(hub.start_run("r", {}), adapter, new)
    assert open_hub("acme").get("m", "a") == version
    store = f"sqlite:///{tmp_path}/organizations/acme/mlflow/mlflow.db"
    assert hub.look() == f"mlflow ui --backend-store-uri {store}"


def test_organisations_do_not_see_each_other(tmp_path, adapter, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    hub = open_hub("acme")
    new = NewVersion("m", "a", "lora", {}, "")
    hub.register(hub.start_run("r", {}), adapter, new)
    assert open_hub("other").versions("m") == []


OPEN = """
import sys
from finetune_core.config import Settings
from finetune_core.hub.mlflow_hub import MlflowHub
print("ready", flush=True)
sys.stdin.readline()
MlflowHub(Settings(), "acme").start_run("r", {})
"""


def test_the_first_jobs_of_an_organisation_can_begin_at_once(tmp_path):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN],
            env=os.environ | {"FINETUNE_HOME": str(tmp_path)},
            text=True,
            **pipes,
        )
        for _ in range(3)
    ]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    ends = [(job.communicate()[1], job.returncode) for job in jobs]
    assert [code for _, code in ends] == [0, 0, 0], ends


class TestDeadServer:
    """MLflow at a port on which nobody listens."""

    @pytest.fixture
    def hub(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        return open_hub("acme")

    def test_it_is_found_to_be_away_within_half_a_minute(self, hub):
        start = time.monotonic()
        with pytest.raises(HubUnavailableError):
            hub.start_run("r", {})
        assert time.monotonic() - start < 30
        assert hub.look() == "http://127.0.0.1:9"

    def test_it_does_not_stand_in_a_jobs_way(self, hub, tmp_path):
        tracking = Tracking(hub, Job(id="ftjob-1", name="n", organization="acme", folder=tmp_path))
        done = []
        with tracking.system_metrics():
            done.append("work")
        tracking.tell_event({"type": "step"})
        tracking.end("FINISHED")
        assert done == ["work"]
