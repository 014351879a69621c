"""Runs one piece of work in a process of its own, and measures its time and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

SAMPLING_SECONDS = 0.05


class Measured(NamedTuple):
    """What a piece of work took.

    Attributes:
        seconds: The wall clock around the work itself, without the start of its process.
        peak_bytes: The most resident memory of its process and all below it, summed.
        result: What it printed last, parsed from JSON.
    """

    seconds: float
    peak_bytes: int
    result: dict


def measure(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> Measured:
    """Runs `python -m module arguments`, whose last line is JSON with the field `seconds`."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    peak = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        tree = psutil.Process(process.pid)
        while not done.wait(SAMPLING_SECONDS):
            peak = max(peak, _resident(tree))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        output, _ = process.communicate()
    finally:
        process.kill()  # one that has ended does not mind; an interrupted one must not go on
        done.set()
        sampler.join()
    if process.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} ended with {process.returncode}")
    result = json.loads(output.splitlines()[-1])
    return Measured(result["seconds"], peak, result)


def _resident(tree: psutil.Process) -> int:
    total = 0
    try:
        processes = [tree, *tree.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
