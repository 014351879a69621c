"""What the tests of `finetune_core.child` run in a child process."""

from __future__ import annotations

import os
import signal
import sys
import threading

from finetune_core.child import Emit
from finetune_core.exceptions import DatasetFormatError, Fault, InvalidConfigError
from finetune_core.types import Record


class Request(Record):
    """A number to work with."""

    number: int


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
