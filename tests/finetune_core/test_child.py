"""Real child processes: what they return, what they raise, how they die."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from finetune_core import child
from finetune_core.child import EventFile
from finetune_core.exceptions import (
    ChildDiedError,
    DatasetFormatError,
    FineTuneError,
    InvalidConfigError,
)
from tests.finetune_core.child_targets import Answer, Request

TARGETS = "tests.finetune_core.child_targets"


def run(name, number, folder, on_event=None):
    return child.run(
        f"{TARGETS}:{name}", Request(number=number), Answer, folder=folder, on_event=on_event
    )


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
