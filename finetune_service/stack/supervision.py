"""The supervisor of the stack's parts: its configuration and its calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
from supervisor.xmlrpc import Faults, SupervisorTransport

from finetune_service.stack.exceptions import PartFailedError, StackError, UnwritableError
from finetune_service.stack.parts import MARK, WORKER, Part
from finetune_service.stack.processes import wait_until
from finetune_service.stack.settings import StackSettings, write_private

PATIENCE_SECONDS = 30.0
LOG_BYTES, LOG_BACKUPS = 20_000_000, 3
# What the caller has set for these is for its own use; each part is told what it needs.
NOT_INHERITED = ("PREFECT_", "MLFLOW_", "FINETUNE_")

HEAD = """\
[unix_http_server]
file={folder}/supervisor.sock
chmod=0700

[supervisord]
logfile={logs}/supervisor.log
logfile_maxbytes={log_bytes}
logfile_backups={log_backups}
pidfile={folder}/supervisor.pid
directory={directory}
umask=077
{user}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command={command}
environment={environment}
directory={directory}
autostart=false
autorestart=true
startsecs=1
startretries=5
priority={rank}
stopsignal={stop_signal}
stopasgroup={as_group}
killasgroup={as_group}
stopwaitsecs={stop_seconds}
redirect_stderr=true
stdout_logfile={logs}/{name}.log
stdout_logfile_maxbytes={log_bytes}
stdout_logfile_backups={log_backups}
{user}"""


class State(NamedTuple):
    """What the supervisor knows of a part."""

    name: str
    running: bool
    failed: bool
    """Whether it has ended by itself and is not, or not yet, started again."""
    pid: int
    started: float
    """When, in seconds since 1970."""


class Supervisor:
    """The program that keeps the parts running.

    Args:
        settings: Where its files lie.
    """

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._folder = settings.folder
        self.logs = settings.folder / "logs"
        self._socket = f"unix://{self._folder}/supervisor.sock"

    def runs(self) -> bool:
        """Whether the supervisor answers."""
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def states(self) -> dict[str, State]:
        """The parts that it knows, by name; none where it does not run."""
        try:
            return {each["name"]: _state(each) for each in self._call("getAllProcessInfo")}
        except (OSError, xmlrpc.client.Error):
            return {}

    def configure(self, parts: Sequence[Part]) -> None:
        """Starts the supervisor or tells it what has changed; a part that changed is stopped.

        Raises:
            StackError: It does not start.
        """
        file = self._folder / "supervisor.conf"
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, self._configuration(parts))
        if not self.runs():
            self._launch(file)
            return
        ((added, changed, removed),) = self._call("reloadConfig")
        # Workers first: they hand their jobs back, for which they need Prefect.
        for name in sorted((*changed, *removed), key=lambda name: not name.startswith(WORKER)):
            self._call("stopProcessGroup", name)
            self._call("removeProcessGroup", name)
        for name in (*added, *changed):
            self._call("addProcessGroup", name)

    def start(self, name: str) -> None:
        """Starts a part, if it does not run."""
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise StackError(f"{name} does not start: {fault.faultString}") from None

    def stop(self, names: Iterable[str], seconds: float = PATIENCE_SECONDS) -> None:
        """Stops parts, all at once, and waits until they have ended.

        Args:
            names: Which.
            seconds: How long they may take.
        """
        names = list(names)
        for name in names:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode not in (Faults.NOT_RUNNING, Faults.BAD_NAME):
                    raise StackError(f"{name} does not stop: {fault.faultString}") from None

        def stopped() -> bool:
            states = self.states()
            return not any(states[name].pid for name in names if name in states)

        wait_until(stopped, seconds)

    def shutdown(self) -> None:
        """Ends the supervisor, whose parts have been stopped."""
        pid = self._call("getPID")
        self._call("shutdown")
        wait_until(lambda: not psutil.pid_exists(pid), PATIENCE_SECONDS)

    def tail(self, name: str, lines: int = 20) -> str:
        """The last lines of a part's log."""
        file = self.logs / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])

    def _call(self, name: str, *arguments: Any) -> Any:
        """One call, by a connection of its own: supervisor's transport ends at a fault."""
        transport = SupervisorTransport(None, None, serverurl=self._socket)
        with xmlrpc.client.ServerProxy("http://supervisor", transport=transport) as calls:
            return getattr(calls.supervisor, name)(*arguments)

    def _launch(self, file: Path) -> None:
        """Starts the supervisor, which puts itself into the background."""
        # Started from a script in the background we ignore Ctrl-C, and so would all below us.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)
        }
        # It warns of what it takes for a fault: a root who has not said that he knows.
        launched = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)],
            env={**environment, MARK: str(self._folder)},
            cwd="/",
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if launched.returncode or not wait_until(self.runs, PATIENCE_SECONDS):
            raise StackError(
                f"the supervisor does not start: {launched.stderr.strip() or 'no answer'}",
                hint=f"Its log: {self.logs / 'supervisor.log'}",
            )

    def _configuration(self, parts: Sequence[Part]) -> str:
        shared = {
            "folder": _escaped(self._folder),
            "logs": _escaped(self.logs),
            "directory": _escaped(self._settings.source),
            "log_bytes": LOG_BYTES,
            "log_backups": LOG_BACKUPS,
        }
        root = "user=root\n" if os.geteuid() == 0 else ""
        programs = [
            PROGRAM.format(
                **shared,
                name=part.name,
                command=_escaped(" ".join(_quoted(word) for word in part.command)),
                environment=_escaped(
                    ",".join(
                        f"{name}={_quoted(value, name)}"
                        for name, value in sorted(part.environment.items())
                    )
                ),
                rank=rank,  # the last is stopped first: a worker needs Prefect to the end
                stop_signal=part.stop_signal,
                stop_seconds=part.stop_seconds,
                as_group=str(part.user is None).lower(),
                user=f"user={part.user}\n" if part.user else "",
            )
            for rank, part in enumerate(parts)
        ]
        return HEAD.format(**shared, user=root) + "".join(programs)


def failure(supervisor: Supervisor, name: str, what: str) -> PartFailedError:
    """The error of a part, with the end of its log."""
    return PartFailedError(
        f"{name} {what}; the end of its log:\n{supervisor.tail(name)}",
        hint=f"The whole log: {supervisor.logs / name}.log",
    )


def _state(info: dict[str, Any]) -> State:
    return State(
        name=info["name"],
        running=info["statename"] in ("STARTING", "RUNNING"),
        failed=info["statename"] in ("BACKOFF", "EXITED", "FATAL"),
        pid=info["pid"],
        started=float(info["start"]),
    )


def _escaped(value: object) -> str:
    """A value as supervisor's files want it: a percent sign is for its own variables."""
    return str(value).replace("%", "%%")


def _quoted(value: str, name: str = "a path") -> str:
    """A value between the quotes that it does not have itself.

    Args:
        value: The value.
        name: What it is, for the error, which does not repeat the value.

    Raises:
        UnwritableError: Supervisor would read it otherwise.
    """
    quote = '"' if '"' not in value else "'"
    edges = value[:1] + value[-1:]
    if (
        quote in value
        or any(each in value for each in ("\n", " ;", " #"))
        or set(edges) & set("'\"")
    ):
        raise UnwritableError(
            f"{name} has a value that supervisor's file has no way to write",
            hint="No line ends, no quotes at its ends or of both kinds, no ' ;' and no ' #'.",
        )
    return f"{quote}{value}{quote}"
