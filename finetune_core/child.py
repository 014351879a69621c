"""Runs a heavy stage in a child process and hears from it.

A crash, an out-of-memory kill or a broken CUDA context then ends the child, not the flow; the
device is free the moment the child ends; and the parent needs no torch.

The parent names a function `module:name` that takes a request record and an `Emit`, and
returns a record. Requests and events travel through files: the events of a child outlive it
and its parent. The child's standard output and error go to a log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, get_type_hints

import psutil  # type: ignore[import-untyped]

from finetune_core.config.settings import Settings
from finetune_core.exceptions import (
    ChildDiedError,
    ChildSilentError,
    DiskFullError,
    FineTuneError,
    OutOfMemoryError,
    error_from_dict,
)
from finetune_core.storage import free_bytes, lacks_room
from finetune_core.types import Record

Event = dict[str, Any]
Emit = Callable[[Event], None]
R = TypeVar("R", bound=Record)

RESULT, ERROR = "result", "error"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 10.0  # between asking a child to end and ending it
DUMP_SECONDS = 3.0  # for a silent child to write where it is
LEAST_ROOM = 2**16  # bytes, without which a disk takes no event any more
KERNEL = Path("/proc/vmstat")
MODULE = "finetune_core.child"
CURRENT = b"Current thread"  # how faulthandler heads the stack of the thread that was asked

log = logging.getLogger(__name__)


class Files(NamedTuple):
    """What the children of a function leave in a folder."""

    request: Path
    events: Path
    log: Path


def files(folder: Path, name: str) -> Files:
    """Where the children of a function of that name leave them."""
    return Files(
        request=folder / f"{name}-request.json",
        events=folder / f"{name}-events.jsonl",
        log=folder / f"{name}.log",
    )


def run(
    target: str,
    request: Record,
    result_type: type[R],
    *,
    folder: Path,
    on_event: Emit | None = None,
    environment: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (sys.executable,),
) -> R:
    """Runs a function in a child process.

    Args:
        target: The function, as `module:name`.
        request: What it is given.
        result_type: The record that it returns.
        folder: Gets the child's `files`.
        on_event: Is told of each event that the function emits.
        environment: Variables that only the child has.
        launcher: What starts a Python module, as `-m` behind it; perhaps in several processes,
            each with its `RANK`, of which the first speaks.

    Raises:
        FineTuneError: What the function raised.
        DiskFullError: There is no room for what the child has to write.
        OutOfMemoryError: The kernel killed the child, for there was no memory left.
        ChildSilentError: The child has said nothing for `FINETUNE_SILENCE_MINUTES`.
        ChildDiedError: The child ended without a result.
    """
    name = target.rpartition(":")[2]
    request_file, events_file, log_file = files(folder, name)
    events = EventFile(events_file)
    killed = _killed_for_memory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        request_file.write_text(request.model_dump_json())
        offset = events.size()
        with log_file.open("ab") as output:
            process = start(
                target,
                request_file,
                events_file,
                output=output,
                environment=environment,
                launcher=launcher,
            )
    except OSError as error:
        if lacks_room(error):
            raise _disk_full(name, folder) from error
        raise
    silence = _Silence(events)
    try:
        ended = False
        while not ended:
            ended = _has_ended(process)
            for event, behind in events.read(offset):
                offset = behind
                if event["type"] == RESULT:
                    return result_type.model_validate(event["record"])
                if event["type"] == ERROR:
                    raise error_from_dict(event)
                if on_event:
                    on_event(event)
            if not ended and silence.too_long():
                _dump_stacks(process, log_file)
                raise ChildSilentError(
                    f"the process of {name} had said nothing for {silence.minutes:g} min, "
                    "and was ended",
                    hint=f"Where it was stands at the end of its log: {log_file}. If it only needs "
                    "longer, raise FINETUNE_SILENCE_MINUTES.",
                )
    finally:
        end(process)
    hint = f"Its log: {log_file}"
    if process.returncode == -signal.SIGKILL and _killed_for_memory() > killed:
        problem = f"the kernel killed the process of {name}: the machine had no memory left"
        raise OutOfMemoryError(problem, hint=hint)
    if free_bytes(folder) < LEAST_ROOM:  # it may have said why, and nobody could hear it
        raise _disk_full(name, folder)
    raise ChildDiedError(f"the process of {name} {_how_it_ended(process.returncode)}", hint=hint)


def start(
    target: str,
    request: Path,
    events: Path,
    *,
    output: IO[Any],
    environment: Mapping[str, str] | None = None,
    launcher: Sequence[str] = (sys.executable,),
) -> subprocess.Popen[bytes]:
    """Starts a child, which ends when its standard input is closed: by `end`, or with this process.

    Args:
        target: The function, as `module:name`.
        request: The file of what it is given.
        events: The file that gets what it says.
        output: Gets its standard output and error.
        environment: Variables that only the child has.
        launcher: As `run` takes it.
    """
    return subprocess.Popen(
        [*launcher, "-m", MODULE, target, str(request), str(events)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env={**os.environ, **(environment or {})},
    )


class EventFile:
    """Events as JSON lines, read by position so that no reader misses or repeats one.

    What the disk has no room for waits for the next event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def size(self) -> int:
        """The position behind the last event."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: Event) -> None:
        """Adds an event, in one write."""
        self._waiting += json.dumps({"time": time.time(), **event}).encode() + b"\n"
        try:
            with self.path.open("ab+") as file:
                torn = b""
                if size := file.seek(0, os.SEEK_END):
                    file.seek(size - 1)
                    torn = b"" if file.read() == b"\n" else b"\n"
                file.write(torn + self._waiting)
        except OSError as error:
            if not lacks_room(error):
                raise
            log.warning("%s has no room for an event, which waits for the next", self.path)
        else:
            self._waiting = b""

    def read(self, offset: int = 0) -> Iterator[tuple[Event, int]]:
        """The whole events from a position on, each with the position behind it."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    log.warning("%s: a torn line is passed over", self.path)
                    continue
                yield event, offset


def main() -> None:
    """The child's side: calls the function and writes its result or its error as an event."""
    target, request_path, events_path = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent decides
    faulthandler.register(signal.SIGUSR2)  # all threads' stacks into the log
    threading.Thread(target=_die_with_parent, daemon=True).start()
    first = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.captureWarnings(True)
    warnings.simplefilter("default", ResourceWarning)  # Python by itself passes over them
    events = EventFile(Path(events_path))
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        request_type: type[Record] = get_type_hints(function)["request"]
        request = request_type.model_validate_json(Path(request_path).read_text())
        record = function(request, events.append if first else _say_nothing)
        if first:
            events.append({"type": RESULT, "record": record.model_dump(mode="json")})
    except Exception as error:
        logging.exception("%s failed", target)
        if not isinstance(error, FineTuneError):
            error = (
                _disk_full(name, events.path.parent)
                if lacks_room(error)
                else FineTuneError(f"{name} failed: {type(error).__name__}: {error}")
            )
        events.append({"type": ERROR, **error.to_dict()})
        sys.exit(error.exit_code)


def _say_nothing(event: Event) -> None:
    """What the other processes of several say of their work: it is the first one's too."""


def _die_with_parent() -> None:
    """Ends this process when its parent is gone: the pipe on standard input then closes.

    Reads from the descriptor: a thread inside a buffered read makes Python abort at its end.
    """
    os.read(0, 1)
    os._exit(1)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a child: it is asked first, and made to after a while. One that has ended is reaped.

    What it has started itself, as a launcher does, has the same while to end, and is killed then,
    even where it is stopped.
    """
    below = _below(process)
    for ask in (process.terminate, process.kill):
        if process.poll() is None:
            ask()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            below = [*below, *_below(process)]
            continue
        break
    if process.stdin:
        process.stdin.close()
    _, left = psutil.wait_procs(below, PATIENCE_SECONDS)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()  # psutil makes sure that it is still the same process
    psutil.wait_procs(left, PATIENCE_SECONDS)


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that a child has started, and those that they have."""
    if process.poll() is not None:  # its number may be somebody else's by now
        return []
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


class _Silence:
    """How long nothing has been heard: what counts is that the events become more."""

    def __init__(self, events: EventFile) -> None:
        self.minutes = Settings().silence_minutes
        self._events = events
        self._size, self._since = events.size(), time.monotonic()

    def too_long(self) -> bool:
        """Whether it is time to give up."""
        size, now = self._events.size(), time.monotonic()
        if size != self._size:
            self._size, self._since = size, now
        return 0 < 60 * self.minutes < now - self._since


def _dump_stacks(process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Has the processes of a child write into its log where they are, one after the other.

    A launcher does not listen to that: it would end.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (psutil.Process(process.pid), *_below(process)):
            command = each.cmdline()
            if MODULE in command and command[command.index("-m") + 1] == MODULE:
                before = log_file.stat().st_size
                each.send_signal(signal.SIGUSR2)
                _await_stack(log_file, before)


def _await_stack(log_file: Path, before: int) -> None:
    """Waits until a process has written where it is; one that is stopped does not."""
    said, deadline = b"", time.monotonic() + DUMP_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        with log_file.open("rb") as file:
            file.seek(before)
            last, said = said, file.read()
        if said == last and CURRENT in said:
            return


def _killed_for_memory() -> int:
    """The processes of this machine that its kernel has killed, since it began, to get memory."""
    lines = KERNEL.read_text().splitlines() if KERNEL.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _disk_full(name: str, folder: Path) -> DiskFullError:
    return DiskFullError(
        f"paused, as the disk has no room for what {name} writes: "
        f"{free_bytes(folder) / 1e6:,.1f} MB are free in {folder}",
        hint="Free space on it, and resume the job.",
    )


def _how_it_ended(code: int) -> str:
    if code < 0:
        cause = signal.Signals(-code).name
        memory = " (the kernel does so when memory runs out)" if cause == "SIGKILL" else ""
        return f"was ended by {cause}{memory}"
    return f"ended with exit code {code} and no result"


if __name__ == "__main__":
    main()
