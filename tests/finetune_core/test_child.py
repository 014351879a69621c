"""Real child processes: what they return, what they raise, how they die."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from finetune_core import child
from finetune_core.child import EventFile
from finetune_core.config import TrainingConfig
from finetune_core.exceptions import (
    ChildDiedError,
    ChildSilentError,
    DatasetFormatError,
    DiskFullError,
    FineTuneError,
    InvalidConfigError,
    OutOfMemoryError,
)
from finetune_core.trainers.launch import launcher
from tests.finetune_core.child_targets import Answer, Place, Request
from tests.finetune_core.disks import fill, small_disk

TARGETS = "tests.finetune_core.child_targets"


def run(name, number, folder, on_event=None, **options):
    return child.run(
        f"{TARGETS}:{name}",
        Request(number=number),
        Answer,
        folder=folder,
        on_event=on_event,
        **options,
    )


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 1) as place:
        yield place


@pytest.fixture
def silence(monkeypatch):
    """Sets how many seconds a child may be silent."""
    return lambda seconds: monkeypatch.setenv("FINETUNE_SILENCE_MINUTES", str(seconds / 60))


def test_the_result_comes_from_another_process(tmp_path):
    answer = run("double", 21, tmp_path)
    assert answer.number == 42
    assert answer.pid != os.getpid()
    assert "the child prints" in (tmp_path / "double.log").read_text()


def test_every_event_arrives_once_and_in_order(tmp_path):
    events = []
    run("double", 500, tmp_path, events.append)
    assert [event["index"] for event in events] == list(range(500))


def test_a_second_run_in_the_folder_hears_only_of_itself(tmp_path):
    run("double", 3, tmp_path)
    events = []
    assert run("double", 2, tmp_path, events.append).number == 4
    assert [event["index"] for event in events] == [0, 1]


def test_an_error_of_the_child_is_raised_in_the_parent(tmp_path):
    with pytest.raises(DatasetFormatError) as caught:
        run("refuse", 7, tmp_path)
    assert type(caught.value) is DatasetFormatError
    assert (caught.value.message, caught.value.hint) == ("row 7 is wrong", "Mend it.")


def test_a_config_error_of_the_child_keeps_its_faults(tmp_path):
    with pytest.raises(InvalidConfigError) as caught:
        run("refuse_config", 0, tmp_path)
    assert caught.value.faults == (("training.epochs", "is 11"),)
    assert caught.value.source == "job.yaml"


def test_an_unexpected_error_of_the_child_is_named(tmp_path):
    with pytest.raises(FineTuneError, match="stumble failed: KeyError: 7") as caught:
        run("stumble", 7, tmp_path)
    assert type(caught.value) is FineTuneError
    assert "Traceback" in (tmp_path / "stumble.log").read_text()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV"])
def test_a_killed_child_is_reported_with_the_signal_and_its_log(tmp_path, name):
    events = []
    with pytest.raises(ChildDiedError, match=f"kill_itself was ended by {name}") as caught:
        run("kill_itself", signal.Signals[name].value, tmp_path, events.append)
    assert len(events) == 1
    assert str(tmp_path / "kill_itself.log") in caught.value.hint


@pytest.mark.parametrize(("name", "code"), [("double", 0), ("refuse", 2), ("stumble", 1)])
def test_a_child_by_itself_ends_with_an_exit_code(tmp_path, name, code):
    request = tmp_path / "request.json"
    request.write_text(Request(number=1).model_dump_json())
    command = ["-m", "finetune_core.child", f"{TARGETS}:{name}", request, tmp_path / "events.jsonl"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, *map(str, command)], **pipes) as process:
        assert process.wait(60) == code


def test_a_child_that_leaves_without_a_result_is_reported(tmp_path):
    with pytest.raises(ChildDiedError, match="exit code 5"):
        run("leave", 5, tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_child_is_gone_when_the_parent_stops_waiting(tmp_path, error):
    pids = []

    def stop(event):
        pids.append(event["pid"])
        raise error

    with pytest.raises(error):
        run("stay", 0, tmp_path, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_that_hears_nothing_any_more_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "PATIENCE_SECONDS", 0.5)
    pids = []

    def stop(event):
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("freeze", 0, tmp_path, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_dies_with_its_parent(tmp_path):
    code = (
        "import sys; from pathlib import Path; from finetune_core import child\n"
        f"from {TARGETS} import Answer, Request\n"
        f"child.run('{TARGETS}:stay', Request(number=0), Answer, folder=Path(sys.argv[1]),\n"
        "          on_event=lambda event: print(event['pid'], flush=True))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        ended = os.pidfd_open(pid)  # becomes readable when the process ends
        try:
            parent.kill()
            assert select.select([ended], [], [], 20)[0]
        finally:
            os.close(ended)


def test_events_are_read_on_from_a_position_and_only_when_whole(tmp_path):
    events = EventFile(tmp_path / "events.jsonl")
    assert list(events.read()) == []
    events.append({"type": "a"})
    behind = events.size()
    events.append({"type": "b"})
    with events.path.open("ab") as file:
        file.write(b'{"type": "half')
    assert [event["type"] for event, _ in events.read()] == ["a", "b"]
    (late,) = events.read(behind)
    assert late[0]["type"] == "b"
    assert list(events.read(late[1])) == []


def test_events_after_a_torn_line_are_read(tmp_path):
    events = EventFile(tmp_path / "events.jsonl")
    events.append({"type": "a"})
    with events.path.open("ab") as file:
        file.write(b'{"type": "half')  # what a full disk or a power cut leaves
    events.append({"type": "b"})
    assert [event["type"] for event, _ in events.read()] == ["a", "b"]


@contextmanager
def started(folder, name, has_begun):
    """Speaks in a child's place until it has begun: how long that takes depends on the machine."""
    events, over = EventFile(child.files(folder, name).events), threading.Event()

    def speak():
        while not (has_begun() or over.wait(0.2)):
            events.append({"type": "starting"})

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def heard():
    """The events of a child that it has said itself."""
    return []


@pytest.fixture
def run_silent(tmp_path, silence, heard):
    """Runs a child that may be silent for so many seconds, once it has said something."""

    def run_silent(name, number, seconds):
        silence(seconds)

        def hear(event):
            if event["type"] == "here":
                heard.append(event)

        with started(tmp_path, name, lambda: heard):
            return run(name, number, tmp_path, hear)

    return run_silent


def test_a_silent_child_leaves_its_stacks_in_the_log_and_is_ended(tmp_path, run_silent, heard):
    with pytest.raises(ChildSilentError, match="stay had said nothing") as caught:
        run_silent("stay", 0, seconds=2)
    log = tmp_path / "stay.log"
    assert str(log) in caught.value.hint
    assert "FINETUNE_SILENCE_MINUTES" in caught.value.hint
    assert 'child_targets.py", line' in log.read_text()
    assert " in stay\n" in log.read_text()
    assert is_gone(heard[0]["pid"])


def test_a_stopped_child_is_silent_too(run_silent, heard, monkeypatch):
    monkeypatch.setattr(child, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(child, "DUMP_SECONDS", 0.5)
    with pytest.raises(ChildSilentError):
        run_silent("freeze", 0, seconds=2)
    assert is_gone(heard[0]["pid"])


@pytest.mark.parametrize("seconds", [3, 0])
def test_a_child_that_says_something_now_and_then_may_take_longer(run_silent, heard, seconds):
    assert run_silent("mutter", 400, seconds).number == 400
    assert len(heard) == 10


@pytest.fixture
def ranks(tmp_path):
    """The processes of `hang`, once all have begun."""

    def find():
        files = [tmp_path / f"hang-events.jsonl.{rank}" for rank in (0, 1)]
        begun = all(file.exists() and file.read_text() for file in files)
        return [int(file.read_text()) for file in files] if begun else []

    return find


TWO = launcher(TrainingConfig(num_processes=2))


def test_all_processes_of_a_launcher_leave_their_stacks_and_are_ended(tmp_path, silence, ranks):
    silence(2)
    with started(tmp_path, "hang", ranks), pytest.raises(ChildSilentError):
        run("hang", 0, tmp_path, launcher=TWO)
    assert (tmp_path / "hang.log").read_text().count(" in hang\n") == 2
    assert all(map(is_gone, ranks()))


def test_stopped_processes_of_a_launcher_are_ended_with_it(tmp_path, monkeypatch, ranks):
    monkeypatch.setattr(child, "PATIENCE_SECONDS", 1)
    stopped = []

    def stop(event):
        while not stopped:
            stopped.extend(ranks())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("hang", 0, tmp_path, stop, launcher=TWO)
    assert all(map(is_gone, stopped))


def test_a_child_that_the_kernel_kills_for_memory_is_told_from_another_kill(tmp_path, monkeypatch):
    kernel = tmp_path / "vmstat"
    kernel.write_text("nr_free_pages 5\noom_kill 3\n")
    monkeypatch.setattr(child, "KERNEL", kernel)

    def count(event):
        kernel.write_text("nr_free_pages 5\noom_kill 4\n")

    with pytest.raises(OutOfMemoryError, match="the kernel killed the process of kill_itself"):
        run("kill_itself", signal.SIGKILL, tmp_path, count)
    with pytest.raises(ChildDiedError, match="ended by SIGKILL"):
        run("kill_itself", signal.SIGKILL, tmp_path)


@pytest.fixture
def small_memory():
    """A control group of 100 MiB, where this user may make one."""
    lines = (line.split(":") for line in Path("/proc/self/cgroup").read_text().splitlines())
    groups = {controllers: path.lstrip("/") for _, controllers, path in lines}
    root, limit, name = Path("/sys/fs/cgroup"), "memory.max", ""
    if "memory" in groups:
        root, limit, name = root / "memory", "memory.limit_in_bytes", "memory"
    group = root / groups.get(name, "") / f"finetune-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("control groups may not be made here")
    try:
        if not (group / limit).exists():
            pytest.skip("the memory of a control group may not be limited here")
        (group / limit).write_text(str(100 * 2**20))
        yield group
    finally:
        group.rmdir()


def test_the_kernel_s_own_kill_for_memory_is_told(tmp_path, small_memory):
    with pytest.raises(OutOfMemoryError, match="the kernel killed the process of eat: the machine"):
        child.run(f"{TARGETS}:eat", Place(folder=small_memory), Answer, folder=tmp_path)


def test_events_wait_while_the_disk_is_full_and_are_written_in_order(disk):
    events = EventFile(disk / "events.jsonl")
    events.append({"type": "a"})
    filler = fill(disk)
    for index in range(100):  # the last page has room for some
        events.append({"type": "b", "index": index, "long": "x" * 100})
    assert len(list(events.read())) < 100
    filler.unlink()
    events.append({"type": "c"})
    found = [(event["type"], event.get("index")) for event, _ in events.read()]
    assert found == [("a", None), *(("b", index) for index in range(100)), ("c", None)]


def test_a_child_that_fills_the_disk_pauses_what_it_works_for(disk):
    with pytest.raises(DiskFullError, match=r"paused, .* what fill_up writes: 0\.0 MB are free"):
        child.run(f"{TARGETS}:fill_up", Place(folder=disk), Answer, folder=disk)
    with pytest.raises(DiskFullError, match="paused"):  # there is no room to ask it again
        child.run(f"{TARGETS}:fill_up", Place(folder=disk), Answer, folder=disk / "again")
    (disk / "filler").unlink()
    assert run("double", 3, disk).number == 6
