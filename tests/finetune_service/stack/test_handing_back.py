"""Handing back real processes, with and without a handler of the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest

from finetune_service.jobs.prefect_client import PrefectUnavailableError
from finetune_service.stack import processes
from finetune_service.stack.handing_back import hand_back
from finetune_service.stack.processes import all_ended, by_run, catches, of_runs

# Each says when it is ready; a flow has a child, as a job's trainer is one.
FLOW = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
def hand_back(*_):
    child.communicate()
    open(sys.argv[1], "w").write("handed back")
    sys.exit()
signal.signal(signal.SIGUSR1, hand_back)
"""
OTHER = """
import atexit, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
atexit.register(lambda: open(sys.argv[1], "w").write("ended"))
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
WAIT = "print(flush=True)\nwhile True: time.sleep(0.1)\n"


class Told:
    """A Prefect that writes down what it is told."""

    def __init__(self, *, away: bool = False) -> None:
        self.runs: list[str] = []
        self._away = away

    def hand_back(self, run_id: str) -> str:
        if self._away:
            raise PrefectUnavailableError("Prefect does not answer.")
        self.runs.append(run_id)
        return "SCHEDULED"


@pytest.fixture
def start(tmp_path) -> Iterator:
    started = []

    def _start(program: str) -> tuple[str, list[psutil.Process]]:
        run = str(uuid.uuid4())
        process = subprocess.Popen(
            [sys.executable, "-c", program + WAIT, str(tmp_path / "said")],
            env={**os.environ, "PREFECT__FLOW_RUN_ID": run},
            stdout=subprocess.PIPE,
        )
        started.append(process)
        process.stdout.readline()
        return run, by_run([psutil.Process(process.pid), *psutil.Process(process.pid).children()])[
            run
        ]

    yield _start
    for process in started:
        process.kill()
        process.communicate()


def test_a_flow_that_knows_the_signal_ends_by_itself(start, tmp_path):
    run, family = start(FLOW)
    assert len(family) == 2
    assert [catches(process, signal.SIGUSR1) for process in family] == [True, False]
    prefect = Told()
    hand_back({run: family}, prefect, 30)
    assert (tmp_path / "said").read_text() == "handed back"
    assert all_ended(family)
    assert prefect.runs == [run]


def test_a_flow_that_does_not_is_asked_to_end(start, tmp_path):
    run, family = start(OTHER)
    hand_back({run: family}, Told(), 30)
    assert (tmp_path / "said").read_text() == "ended"
    assert all_ended(family)


def test_one_that_goes_on_after_its_time_is_killed(start, monkeypatch):
    monkeypatch.setattr(processes, "END_SECONDS", 0.2)
    run, family = start(STUBBORN)
    hand_back({run: family}, Told(), 0.2)
    assert all_ended(family)
    assert not of_runs([run])


def test_jobs_end_where_prefect_is_away(start, caplog):
    runs = dict([start(FLOW), start(OTHER)])
    hand_back(runs, Told(away=True), 30)
    assert not of_runs(runs)
    assert [run in caplog.text for run in runs] == [True, True]
