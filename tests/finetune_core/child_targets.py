"""What the tests of `finetune_core.child` run in a child process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from finetune_core.child import Emit
from finetune_core.exceptions import DatasetFormatError, Fault, InvalidConfigError
from finetune_core.types import Record


class Request(Record):
    """A number to work with."""

    number: int


class Place(Record):
    """A folder."""

    folder: Path


class Answer(Record):
    """The number that came out."""

    number: int
    pid: int


def double(request: Request, emit: Emit) -> Answer:
    for index in range(request.number):
        emit({"type": "progress", "index": index})
    sys.stdout.write("the child prints\n")
    return Answer(number=2 * request.number, pid=os.getpid())


def refuse(request: Request, emit: Emit) -> Answer:
    raise DatasetFormatError(f"row {request.number} is wrong", hint="Mend it.")


def refuse_config(request: Request, emit: Emit) -> Answer:
    raise InvalidConfigError([Fault("training.epochs", "is 11")], source="job.yaml")


def stumble(request: Request, emit: Emit) -> Answer:
    return {}[request.number]


def leave(request: Request, emit: Emit) -> Answer:
    raise SystemExit(request.number)


def kill_itself(request: Request, emit: Emit) -> Answer:
    emit({"type": "progress", "index": 0})
    os.kill(os.getpid(), request.number)
    return Answer(number=0, pid=0)


def stay(request: Request, emit: Emit) -> Answer:
    emit({"type": "here", "pid": os.getpid()})
    threading.Event().wait()
    return Answer(number=0, pid=0)


def freeze(request: Request, emit: Emit) -> Answer:
    emit({"type": "here", "pid": os.getpid()})
    os.kill(os.getpid(), signal.SIGSTOP)
    return Answer(number=0, pid=0)


def mutter(request: Request, emit: Emit) -> Answer:
    """Says something ten times, so often that nobody takes it for silent."""
    for index in range(10):
        emit({"type": "here", "index": index})
        time.sleep(request.number / 1000)
    return Answer(number=request.number, pid=os.getpid())


def hang(request: Request, emit: Emit) -> Answer:
    """As one of several: tells who it is by a file, and does nothing any more."""
    Path(f"{sys.argv[3]}.{os.environ['RANK']}").write_text(str(os.getpid()))
    if os.environ["RANK"] == "0":
        emit({"type": "here"})
    threading.Event().wait()
    return Answer(number=0, pid=0)


def fill_up(request: Place, emit: Emit) -> Answer:
    """Writes until the disk is full."""
    emit({"type": "here"})
    with (request.folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return Answer(number=0, pid=0)


def eat(request: Place, emit: Emit) -> Answer:
    """Takes memory, within a control group, until the kernel ends it."""
    (request.folder / "cgroup.procs").write_text(str(os.getpid()))
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(2**20)))
