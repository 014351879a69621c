"""The processes of the stack and those of jobs, told apart by their environments."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from finetune_service.stack.parts import MARK, WORKER
from finetune_service.stack.settings import StackSettings

POLL_SECONDS = 0.05
END_SECONDS = 15.0  # between asking a process to end and ending it
KILLED_SECONDS = 30.0  # in which a killed one is surely gone


def processes(settings: StackSettings) -> list[psutil.Process]:
    """Every process of the stack, those of jobs among them, but for the caller's own."""
    mark = str(settings.folder)
    return [process for process in others() if _variable(process, MARK) == mark]


def others() -> list[psutil.Process]:
    """Every process of this machine but the caller's own."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid()]


def jobs(settings: StackSettings) -> dict[str, list[psutil.Process]]:
    """The processes of the stack's jobs, by the id of their flow run."""
    return by_run(processes(settings))


def by_run(found: Iterable[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """Those of some processes that work on a flow run, by its id."""
    runs = defaultdict(list)
    for process in found:
        if run := job_of(process):
            runs[run].append(process)
    return dict(runs)


def of_runs(ids: Iterable[str]) -> list[psutil.Process]:
    """Every process of this machine that works on one of some flow runs."""
    wanted = set(ids)
    return [process for process in others() if job_of(process) in wanted]


def end_orphans(settings: StackSettings) -> None:
    """Ends the parts that outlived their supervisor; jobs that run go on.

    Workers are killed outright: a worker that is asked to end takes its jobs with it.
    """
    orphans = {
        process: name
        for process in processes(settings)
        if not job_of(process) and (name := _variable(process, "SUPERVISOR_PROCESS_NAME"))
    }
    for process, name in orphans.items():
        send(process, signal.SIGKILL if name.startswith(WORKER) else signal.SIGINT)
    _wait_and_kill(list(orphans))


def end(found: Iterable[psutil.Process]) -> None:
    """Asks processes to end, and ends those that do not."""
    asked = list(found)
    for process in asked:
        send(process, signal.SIGTERM)
    _wait_and_kill(asked)


def send(process: psutil.Process, number: int) -> None:
    """Sends a signal, unless the process has ended."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def catches(process: psutil.Process, number: int) -> bool:
    """Whether a process does something of its own at a signal, as Linux tells."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return False  # it has ended, or this is no Linux
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def all_ended(found: Iterable[psutil.Process]) -> bool:
    """Whether processes have ended; one whose parent has yet to hear of it has."""
    return not any(_lives(process) for process in found)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for a condition; says whether it came in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def memory(pid: int) -> int:
    """The bytes of memory that a process and those below it hold, shared pages counted once."""
    try:
        parent = psutil.Process(pid)
        return sum(_memory(each) for each in (parent, *parent.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _memory(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.uss))  # Linux alone knows shares
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def job_of(process: psutil.Process) -> str | None:
    """The flow run that a process belongs to, as Prefect tells by a variable."""
    return _variable(process, "PREFECT__FLOW_RUN_ID")


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        value: str | None = process.environ().get(name)
    except (psutil.Error, OSError):
        return None  # it has ended, or is not ours to look at
    return value


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait_and_kill(asked: Sequence[psutil.Process]) -> None:
    if not wait_until(lambda: all_ended(asked), END_SECONDS):
        for process in asked:
            send(process, signal.SIGKILL)
        wait_until(lambda: all_ended(asked), KILLED_SECONDS)
