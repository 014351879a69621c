"""Waits for what happens elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], says: str, seconds: float = 60) -> Any:
    """Waits for a condition, and gives what it has given; what is wrong where it stays away."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{says} ({seconds:g} s)"
        time.sleep(0.02)
    return found
