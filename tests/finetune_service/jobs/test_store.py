"""Jobs as folders: whole or not there, found by time and by name."""

from __future__ import annotations

import pytest

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.exceptions import DamagedFolderError
from finetune_core.types import new_job_id
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.states import Status
from finetune_service.jobs.store import JobStore

CONFIG = PipelineConfig.parse({"dataset": {"path": "x.jsonl"}})


@pytest.fixture
def store(tmp_path) -> JobStore:
    return JobStore(tmp_path)


def add(store, name="one", organization="acme", **fields) -> JobRecord:
    record = JobRecord(
        id=new_job_id(),
        name=name,
        organization=organization,
        created_at=1,
        model="tiny",
        **fields,
    )
    store.add(record, CONFIG)
    return record


def test_what_was_added_is_there_for_every_process(store, tmp_path):
    record = add(store, metadata={"a": "b"}, suffix="s")
    other = JobStore(tmp_path)
    assert other.get("acme", record.id) == record
    assert other.config(record) == CONFIG
    changed = store.change(record, flow_run_id="run")
    assert other.get("acme", record.id) == changed != record
    assert other.get("other", record.id) is None
    assert other.get("acme", "../acme") is None


def test_the_newest_come_first_and_a_name_is_its_newest_jobs(store):
    made = [add(store, name) for name in ("a", "b", "a")]
    ids = [record.id for record in made][::-1]
    assert store.ids("acme") == ids
    assert store.ids("acme", after=ids[0]) == ids[1:]
    assert store.find("acme", "a") == made[2]
    assert store.find("acme", "c") is None
    assert store.organizations() == ["acme"]
    assert store.ids("nobody") == []


def test_an_outcome_is_written_once(store):
    record = add(store)
    assert [each.id for each in store.unfinished("acme")] == [record.id]
    first = Outcome(status=Status.SUCCEEDED, finished_at=1.0)
    assert store.finish(record, first) == first
    assert store.finish(record, Outcome(status=Status.FAILED, finished_at=2.0)) == first
    assert store.outcome(record) == first
    assert list(store.unfinished("acme")) == []
    names = {path.name for path in store.folder("acme", record.id).iterdir()}
    assert names == {"config.yaml", "job.json", "outcome.json"}


def test_what_is_withdrawn_is_gone(store):
    record = add(store)
    store.withdraw(record)
    assert store.get("acme", record.id) is None
    assert list(store.home_of("acme").joinpath("jobs").iterdir()) == []


def test_a_model_is_found_by_its_id(store):
    record = add(store, suffix="A b!")
    assert record.fine_tuned_model == f"ft:tiny:acme:A-b:{record.id[-8:]}"
    assert store.find_model("acme", record.fine_tuned_model) == record
    assert store.find_model("other", record.fine_tuned_model) is None
    assert store.find_model("acme", f"ft:tiny:acme:x:{record.id[-8:]}") is None


def test_a_record_of_the_flows_own_is_enough(store):
    job_id = new_job_id()
    folder = store.folder("acme", job_id)
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(
        f'{{"id": "{job_id}", "name": "n", "organization": "acme", "created_at": 1, '
        '"flow_run_id": "r", "model": "m", "seed": 3, "something": "newer"}'
    )
    assert store.get("acme", job_id).seed == 3


def test_a_damaged_record_is_said(store):
    record = add(store)
    (store.folder("acme", record.id) / "job.json").write_text("{")
    with pytest.raises(DamagedFolderError):
        store.get("acme", record.id)


def test_a_key_stands_for_what_was_first_made_of_it(store):
    first = store.request("acme", "key", job_id="a", request="1")
    again = store.request("acme", "key", job_id="b", request="2")
    assert (again["job_id"], again["request"]) == (first["job_id"], first["request"]) == ("a", "1")
    assert store.request("other", "key", job_id="c", request="3")["job_id"] == "c"
