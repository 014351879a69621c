"""A Prefect worker of flow processes that hands its jobs back when it is stopped.

Prefect's own, asked to end, kills its flows at once and leaves their runs "Running" for ever.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import psutil  # type: ignore[import-untyped]

from finetune_service.jobs.prefect_client import PREFECT_ERRORS
from finetune_service.stack.handing_back import hand_back, hand_back_runs
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.processes import by_run

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Prefect's own worker leaves a run alone that is cancelled after it was taken and before it has
# begun: nobody else would end it.
CANCELS = {
    "PREFECT_WORKER_ENABLE_CANCELLATION": "true",
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "10",
}

log = logging.getLogger(__name__)


def main() -> int:
    """Runs the worker until it ends or is to be stopped.

    Returns:
        The exit code: that of Prefect's worker, or 0 when it was stopped.
    """
    options, further = _parser().parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopped = threading.Event()
    for number in STOPS:
        signal.signal(number, lambda *_: stopped.set())
    name = options.name or f"{options.pool}-{socket.gethostname()}"
    command = ["worker", "start", "--type", "process", "--pool", options.pool, "--name", name]
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", *command, *further],
        env={**CANCELS, **os.environ},
        start_new_session=True,  # or a signal to our group would reach it, and it its flows
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    while not stopped.wait(POLL_SECONDS):
        code = worker.poll()
        if code is not None:
            return code if code >= 0 else 128 - code
    _stop(worker, options.pool, name, options.grace)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m finetune_service.stack.worker",
        description="A worker that hands its jobs back when it is stopped.",
        epilog="Everything else is for `prefect worker start`, such as --limit.",
        allow_abbrev=False,
    )
    parser.add_argument("--pool", required=True, help="the work pool")
    parser.add_argument("--name", help="the worker's name; without it, the pool's and the host's")
    parser.add_argument(
        "--grace",
        type=float,
        default=120.0,
        help="seconds in which its jobs save a checkpoint and end when it is stopped",
    )
    return parser


def _stop(worker: subprocess.Popen[bytes], pool: str, name: str, grace: float) -> None:
    """Ends a worker, its jobs first."""
    worker.send_signal(signal.SIGSTOP)  # it takes no more, and leaves its jobs alone
    runs = by_run(_below(worker.pid))
    log.info("the worker is being stopped; it has %d jobs", len(runs))
    with PrefectApi() as prefect:
        hand_back(runs, prefect, grace)
        try:
            taken = prefect.pending(pool, name)
        except PREFECT_ERRORS as error:
            log.warning("whether the worker has just taken a run is not known: %s", error)
        else:
            hand_back_runs(taken, prefect)
    worker.kill()
    worker.wait()


def _below(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _end_with_parent() -> None:
    """Has this process killed when its parent is: two workers would take twice the jobs."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
