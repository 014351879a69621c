"""Real worker processes: their results in order, their errors, and how they end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

import psutil
import pytest

from finetune_core import parallel
from finetune_core.exceptions import ChildDiedError, DatasetFormatError
from finetune_core.parallel import in_order

PATIENCE_SECONDS = 20


@pytest.fixture
def processes(monkeypatch):
    """Has everything count as large, on a machine of three cores."""
    monkeypatch.setattr(parallel, "LARGE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)


# What workers do, who find it by the name of this module.


def work(part):
    """The later parts are the quicker ones."""
    sum(range(3_000_000 // (part + 1)))
    return part, os.getpid(), os.environ.get("TOKENIZERS_PARALLELISM")


def refuse_7(part):
    if part == 7:
        raise DatasetFormatError("row 7 is wrong", hint="Mend it.")
    return part


def stumble(part):
    return {}[part]


def kill_itself_at_5(part):
    if part == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def stay_but_first(part):
    if part:
        threading.Event().wait()
    return os.getpid()


def count_to(number, read):
    for part in range(number):
        read.append(part)
        yield part


def ends(pids):
    """Whether processes end; who has ended and is not yet buried counts as gone."""
    with ExitStack() as stack:
        for pid in pids:
            try:
                ended = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, ended)
            if not select.select([ended], [], [], PATIENCE_SECONDS)[0]:
                return False
    return True


def workers():
    """The worker processes that this process has started."""
    return {
        child.pid
        for child in psutil.Process().children()
        if "loky" in " ".join(child.cmdline()) and "tracker" not in " ".join(child.cmdline())
    }


def test_results_of_several_processes_come_in_order(processes):
    results = list(in_order(work, range(60), 1))
    assert [part for part, _, _ in results] == list(range(60))
    pids = {pid for _, pid, _ in results}
    assert 2 <= len(pids) <= 3
    assert os.getpid() not in pids
    assert {setting for _, _, setting in results} == {"false"}
    assert ends(pids)


@pytest.mark.parametrize(
    ("size", "cores"), [(parallel.LARGE - 1, 8), (0, 8), (10 * parallel.LARGE, 1), (2**60, None)]
)
def test_what_is_small_or_has_one_core_is_worked_on_here(monkeypatch, size, cores):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    read = []
    results = in_order(work, count_to(5, read), size)
    assert next(results)[:2] == (0, os.getpid())
    assert read == [0]
    assert [(part, pid) for part, pid, _ in results] == [(n, os.getpid()) for n in range(1, 5)]


def test_no_parts_give_no_results(processes):
    assert list(in_order(work, [], 1)) == []


def test_only_a_few_parts_are_read_ahead(processes):
    read = []
    results = in_order(refuse_7, count_to(1000, read), 1)
    for done in range(5):
        next(results)
        assert len(read) <= done + 1 + 2 * 3
    results.close()
    assert len(read) < 15


def test_an_error_of_a_worker_arrives_as_such_behind_the_results_before_it(processes):
    results = in_order(refuse_7, range(100), 1)
    assert [next(results) for _ in range(7)] == list(range(7))
    started = workers()
    with pytest.raises(DatasetFormatError) as caught:
        next(results)
    assert type(caught.value) is DatasetFormatError
    assert (caught.value.message, caught.value.hint) == ("row 7 is wrong", "Mend it.")
    assert len(started) == 3
    assert ends(started)


def test_an_unexpected_error_of_a_worker_arrives_as_such(processes):
    with pytest.raises(KeyError, match="0"):
        list(in_order(stumble, range(3), 1))


def test_an_error_in_reading_the_parts_arrives_as_such(processes):
    def parts():
        yield 0
        raise DatasetFormatError("line 2 is wrong")

    with pytest.raises(DatasetFormatError, match="line 2 is wrong"):
        list(in_order(refuse_7, parts(), 1))
    assert ends(workers())


def test_a_killed_worker_is_reported_and_no_other_stays(processes):
    with pytest.raises(ChildDiedError, match="was killed") as caught:
        list(in_order(kill_itself_at_5, range(1000), 1))
    assert "memory" in caught.value.hint
    assert ends(workers())
    assert list(in_order(refuse_7, range(5), 1)) == list(range(5))


def test_workers_that_hang_end_when_nobody_waits_for_them_any_more(processes):
    results = in_order(stay_but_first, range(3), 1)
    pid = next(results)
    assert psutil.pid_exists(pid)
    started = workers()
    assert pid in started
    results.close()
    assert ends(started)


BEGIN = """
import os, signal, threading
from finetune_core import parallel
from tests.finetune_core.test_parallel import stay_but_first, workers

parallel.LARGE = 1
os.cpu_count = lambda: 2
"""

AT_WORK = """
def parts():
    while len(seen) < 2:
        yield 0
    yield from (1, 1, 1)

seen = set()
for pid in parallel.in_order(stay_but_first, parts(), 1):
    seen.add(pid)
    if len(seen) == 2:
        print(*seen, flush=True)
"""

STARTING = """
def parts():
    yield 1
    print(*workers(), flush=True)
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)

list(parallel.in_order(stay_but_first, parts(), 1))
"""


@pytest.mark.parametrize("script", [AT_WORK, STARTING], ids=["at work", "starting"])
def test_workers_end_when_their_parent_is_killed(script):
    command = [sys.executable, "-c", BEGIN + script]
    # loky says on standard error what a killed parent leaves to clean up.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            assert len(pids) == 2
            parent.kill()
            assert parent.wait(PATIENCE_SECONDS) == -signal.SIGKILL
            assert ends(pids)
        finally:
            for pid in (parent.pid, *pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
