"""FlowProcess: the process that works on a job here; it outlives the one that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from finetune_core.storage import write_json

PATIENCE_SECONDS = 15.0  # the flow has its training's process end within 10
KEYS = ("FINETUNE_API_URL", "FINETUNE_API_KEY")  # of no use to a job that runs here


class FlowProcess:
    """The process of one job: started, found again by anybody, ended.

    Args:
        folder: The job's. `process.json` in it says which process it was; the flow's last word, as
            JSON, is in `logs/flow.json`, and what it says to people in `logs/flow.log`.
    """

    def __init__(self, folder: Path) -> None:
        self._known = folder / "process.json"
        self._logs = folder / "logs"
        self._job_id = folder.name

    def start(self, organization: str) -> None:
        """Has the flow begin with the job, or go on with it."""
        self._logs.mkdir(exist_ok=True)
        command = ["--resume", self._job_id, "--organization", organization, "--json"]
        with self._last_word.open("wb") as out, (self._logs / "flow.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.finetune", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name not in KEYS},
                # A group of its own: Ctrl-C and the end of a terminal are not meant for it.
                start_new_session=True,
            )
        created = psutil.Process(process.pid).create_time()
        write_json(self._known, {"pid": process.pid, "created": created})
        # It must be reaped, as long as we live: till then a process that has ended looks alive.
        threading.Thread(target=process.wait, daemon=True).start()

    @property
    def started_at(self) -> float | None:
        """When it was started, in seconds since 1970; None where nobody has started one."""
        known = _read(self._known)
        return float(known["created"]) if known else None

    def alive(self) -> bool:
        """Whether it runs."""
        return self._find() is not None

    def end(self) -> None:
        """Ends it, with all that it has started: it is asked first, and made to after a while."""
        process = self._find()
        if process is None:
            return
        with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
            process.terminate()
            process.wait(PATIENCE_SECONDS)
        with suppress(ProcessLookupError):  # which is raised where nothing is left of its group
            os.killpg(process.pid, signal.SIGKILL)

    def error(self) -> dict[str, Any] | None:
        """The error that it ended with, as `FineTuneError.to_dict` gives it, if it has said one."""
        said = _read(self._last_word)
        return said.get("error") if said else None

    @property
    def _last_word(self) -> Path:
        return self._logs / "flow.json"

    def _find(self) -> psutil.Process | None:
        known = _read(self._known)
        if known is None:
            return None
        try:
            process = psutil.Process(known["pid"])
            # A process of this number may be quite another one by now.
            same = abs(process.create_time() - known["created"]) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _read(file: Path) -> dict[str, Any] | None:
    """What a file of JSON holds; None where it is not there or not whole."""
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found
