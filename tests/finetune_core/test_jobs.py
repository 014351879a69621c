"""A job's folder is made once, found again, and nobody else's."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import (
    IncompatibleConfigError,
    InvalidConfigError,
    JobInUseError,
    JobNotFoundError,
    JobSupersededError,
    OutputError,
)
from finetune_core.jobs import (
    find_config,
    model_name,
    open_job,
    organization_folder,
    working_on,
)
from finetune_core.trainers.control import Control
from tests.waiting import until


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def config(path="rows.jsonl", **training):
    return PipelineConfig.parse({"dataset": {"path": path}, "training": training})


def test_a_job_lies_in_its_organisations_folder_with_its_config(home):
    job = open_job(config(), "acme")
    assert job.folder == home / "organizations" / "acme" / "jobs" / job.id
    assert PipelineConfig.from_yaml(job.folder / "config.yaml") == config()


def test_a_job_lies_in_the_folder_that_the_config_names(tmp_path):
    job = open_job(config(output_dir=str(tmp_path / "out")), "acme")
    assert job.folder.parent == tmp_path / "out"
    assert find_config(job.id, "acme", tmp_path / "out").training.output_dir == tmp_path / "out"


def test_a_job_goes_on_with_its_own_config_only():
    job = open_job(config(), "acme")
    assert open_job(find_config(job.id, "acme", None), "acme", job_id=job.id) == job
    with pytest.raises(IncompatibleConfigError, match=job.id):
        open_job(config(epochs=4), "acme", job_id=job.id)


def test_a_job_that_is_not_there_is_named():
    with pytest.raises(JobNotFoundError, match="ftjob-nope"):
        find_config("ftjob-nope", "acme", None)


def test_the_job_of_another_organisation_is_not_there():
    job = open_job(config(), "other")
    with pytest.raises(JobNotFoundError):
        find_config(job.id, "acme", None)


def test_a_job_id_leads_to_no_other_organisation():
    job = open_job(config(), "other")
    open_job(config(), "acme")
    with pytest.raises(InvalidConfigError, match="job_id"):
        find_config(f"../../other/jobs/{job.id}", "acme", None)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", "a.b", "-a", "a\n", "a" * 65, "ä"])
def test_an_organisations_name_cannot_lead_elsewhere(name):
    with pytest.raises(InvalidConfigError, match="organization"):
        organization_folder(name)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        open_job(config(output_dir=str(tmp_path / "file" / "deep")), "acme")


@pytest.mark.parametrize(
    ("base", "path", "name"),
    [
        ("examples/tiny_base", "data/orders.jsonl", "tiny_base-orders"),
        ("org/Model-7B/", "a b?.csv", "Model-7B-a-b"),
        ("m", "x" * 200 + ".json", ("m-" + "x" * 200)[:128]),
    ],
)
def test_a_model_is_named_after_its_base_and_its_dataset(base, path, name):
    value = {"model": {"name": base}, "dataset": {"path": path}}
    assert model_name(PipelineConfig.parse(value)) == name
    assert model_name(PipelineConfig.parse(value | {"registry": {"model_name": "own"}})) == "own"


WORKER = """
import sys, time
from finetune_core.config import PipelineConfig
from finetune_core.jobs import open_job, working_on
from finetune_core.trainers.control import Control

job_id, listens = sys.argv[1:]
config = PipelineConfig.parse({"dataset": {"path": "rows.jsonl"}})
with working_on(open_job(config, "acme", job_id=job_id), take_over=True) as job:
    while True:
        if listens == "yes":
            Control(job.control, job.attempt).check()
        with (job.folder / "written").open("a") as file:
            print(job.attempt, file=file)
        time.sleep(0.02)
"""


@pytest.fixture
def worker():
    """Starts processes that work on a job, and listen or do not."""
    started = []

    def start(job, *, listens):
        command = [sys.executable, "-c", WORKER, job.id, "yes" if listens else "no"]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        written = job.folder / "written"
        until(lambda: written.exists() and written.read_text(), "the process does not begin")
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_that_was_taken_for_dead_may_not_write(worker):
    job = open_job(config(), "acme")
    first = worker(job, listens=True)
    first.send_signal(signal.SIGSTOP)
    before = (job.folder / "written").read_text()
    with working_on(job, take_over=True) as taken:
        assert taken.attempt == 2
        # It was woken, saw that it is not the last attempt any more, and ended by itself.
        assert first.wait(1) == 1
        assert "JobSupersededError: attempt 2 goes on with the job; this one, 1," in (
            first.stderr.read()
        )
        after = (job.folder / "written").read_text().removeprefix(before)
        assert after in ("", "1\n")  # at most what it was about to write when it was stopped


def test_one_that_does_not_hear_of_it_is_ended_with_all_below_it(worker, monkeypatch):
    monkeypatch.setattr("finetune_core.jobs.LOCK_SECONDS", 1.0)
    job = open_job(config(), "acme")
    first = worker(job, listens=False)
    with working_on(job, take_over=True) as taken:
        assert taken.attempt == 2
        assert not psutil.pid_exists(first.pid)


def test_who_only_looks_in_takes_nothing_over(worker, monkeypatch):
    monkeypatch.setattr("finetune_core.jobs.LOCK_SECONDS", 0.5)
    job = open_job(config(), "acme")
    first = worker(job, listens=True)
    with pytest.raises(JobInUseError), working_on(job):
        pass
    assert first.poll() is None
    assert Control(job.control).last_attempt() == 1


def test_of_many_attempts_at_once_each_has_its_number(tmp_path):
    control = Control(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: control.begin_attempt(), range(32)))
    assert sorted(numbers) == list(range(1, 33))
    Control(tmp_path, 32).check()
    with pytest.raises(JobSupersededError):
        Control(tmp_path, 31).check()


def test_one_process_works_on_a_job_at_a_time(monkeypatch):
    monkeypatch.setattr("finetune_core.jobs.LOCK_SECONDS", 0.2)
    job = open_job(config(), "acme")
    with working_on(job), pytest.raises(JobInUseError, match=job.id), working_on(job):
        pass
    with working_on(job):
        pass
