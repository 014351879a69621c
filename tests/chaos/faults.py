"""The faults: what is done to whom."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil

from finetune_service.jobs.states import FINAL, Status
from finetune_service.stack.parts import API, MLFLOW, POSTGRES, PREFECT
from tests.chaos.lab import ON_SMALL_DISK, USUAL, WORKER_PART, Lab, LabJob

STOPPED_SECONDS = 60
FULL_SECONDS = 30
POLL_SECONDS = 0.2

Victims = Callable[[Lab, LabJob], list[psutil.Process]]


class Fault(NamedTuple):
    """A fault.

    Attributes:
        strike: Does it; gives the moment at which it hit, or nothing where there was nobody to.
        organization: To whose jobs.
        recovery: Who or what brings the job back.
        resumed: Whether a person resumes the job.
    """

    strike: Callable[[Lab, LabJob], float | None]
    recovery: str
    organization: str = USUAL
    resumed: bool = False


def trainer(lab: Lab, job: LabJob) -> list[psutil.Process]:
    """The child process of the stage at work: most of the time, the training's."""
    return [each for each in lab.processes(job) if "finetune_core.child" in _command(each)]


def flow(lab: Lab, job: LabJob) -> list[psutil.Process]:
    """The process of the job's flow."""
    return lab.processes(job)[:1]


def machine(lab: Lab, job: LabJob) -> list[psutil.Process]:
    """A worker and all of its jobs' processes."""
    return [*lab.part(WORKER_PART), *lab.processes(job)]


def part(name: str) -> Victims:
    """All processes of a part."""
    return lambda lab, job: lab.part(name)


def leader(name: str) -> Victims:
    """The process of a part that its supervisor has started."""
    return lambda lab, job: lab.part(name)[:1]


def signalled(number: int, victims: Victims) -> Callable[[Lab, LabJob], float | None]:
    """Sends a signal to all victims."""

    def strike(lab: Lab, job: LabJob) -> float | None:
        return _send(number, victims(lab, job))

    return strike


def stopped(victims: Victims) -> Callable[[Lab, LabJob], float | None]:
    """Stops the victims for a while, unless they are ended meanwhile."""

    def strike(lab: Lab, job: LabJob) -> float | None:
        found = victims(lab, job)
        moment = _send(signal.SIGSTOP, found)
        try:
            psutil.wait_procs(found, timeout=STOPPED_SECONDS)
        finally:
            _send(signal.SIGCONT, found)
        return moment

    return strike


def full(lab: Lab, job: LabJob) -> float:
    """Fills the job's disk up, until it has paused or a while has passed."""
    assert lab.disk is not None
    ballast = lab.disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 2**16)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    moment = time.time()
    try:
        while time.time() < moment + FULL_SECONDS:
            if lab.status(job) in (Status.PAUSED, *FINAL):
                break
            time.sleep(POLL_SECONDS)
    finally:
        ballast.unlink()
    return moment


KILL, SUPERVISOR = signal.SIGKILL, "the supervisor"
FAULTS = {
    "trainer": Fault(signalled(KILL, trainer), "the task's retry"),
    "flow": Fault(signalled(KILL, flow), "the keeper"),
    "worker": Fault(signalled(KILL, part(WORKER_PART)), "nobody: it goes on"),
    "machine": Fault(signalled(KILL, machine), "automation, keeper"),
    "prefect": Fault(signalled(KILL, part(PREFECT)), SUPERVISOR),
    "mlflow": Fault(signalled(KILL, part(MLFLOW)), SUPERVISOR),
    "api": Fault(signalled(KILL, part(API)), SUPERVISOR),
    "postgres": Fault(signalled(KILL, leader(POSTGRES)), SUPERVISOR),
    "trainer-stopped": Fault(stopped(trainer), "SIGCONT"),
    "flow-stopped": Fault(stopped(flow), "SIGCONT"),
    "worker-ended": Fault(signalled(signal.SIGTERM, leader(WORKER_PART)), "handing back"),
    "disk": Fault(full, "a person", ON_SMALL_DISK, resumed=True),
}


def known(lab: Lab) -> list[str]:
    """The faults that can be done here."""
    return [name for name in FAULTS if name != "disk" or lab.disk]


def _send(number: int, victims: Iterable[psutil.Process]) -> float | None:
    hit = None
    for each in victims:
        with suppress(psutil.NoSuchProcess):
            os.kill(each.pid, number)
            hit = time.time()
    return hit


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
