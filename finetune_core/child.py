"""Runs a heavy stage in a child process and hears from it.

A crash, an out-of-memory kill or a broken CUDA context then ends the child, not the flow; the
device is free the moment the child ends; and the parent needs no torch.

The parent names a function `module:name` that takes a request record and an `Emit`, and
returns a record. Requests and events travel through files: the events of a child outlive it
and its parent. The child's standard output and error go to a log.
"""

from __future__ import annotations

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

from finetune_core.exceptions import ChildDiedError, FineTuneError, error_from_dict
from finetune_core.types import Record

Event = dict[str, Any]
Emit = Callable[[Event], None]
R = TypeVar("R", bound=Record)

RESULT, ERROR = "result", "error"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 10.0  # between asking a child to end and ending it

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
        ChildDiedError: The child ended without a result.
    """
    name = target.rpartition(":")[2]
    folder.mkdir(parents=True, exist_ok=True)
    request_file, events_file, log_file = files(folder, name)
    events = EventFile(events_file)
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
    finally:
        end(process)
    raise ChildDiedError(
        f"the process of {name} {_how_it_ended(process.returncode)}", hint=f"Its log: {log_file}"
    )


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
        [*launcher, "-m", "finetune_core.child", target, str(request), str(events)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env={**os.environ, **(environment or {})},
    )


class EventFile:
    """Events as JSON lines, read by position so that no reader misses or repeats one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def size(self) -> int:
        """The position behind the last event."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, event: Event) -> None:
        """Adds an event, in one write."""
        line = json.dumps({"time": time.time(), **event}).encode() + b"\n"
        with self.path.open("ab+") as file:
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                line = line if file.read() == b"\n" else b"\n" + line  # a write was torn here
            file.write(line)

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
            error = FineTuneError(f"{name} failed: {type(error).__name__}: {error}")
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
    """Ends a child: it is asked first, and made to after a while. One that has ended is reaped."""
    for ask in (process.terminate, process.kill):
        if process.poll() is None:
            ask()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        break
    if process.stdin:
        process.stdin.close()


def _how_it_ended(code: int) -> str:
    if code < 0:
        cause = signal.Signals(-code).name
        memory = " (the kernel does so when memory runs out)" if cause == "SIGKILL" else ""
        return f"was ended by {cause}{memory}"
    return f"ended with exit code {code} and no result"


if __name__ == "__main__":
    main()
