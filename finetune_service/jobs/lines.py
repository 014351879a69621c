"""Reads events from the newest back, as far as they are wanted and no further."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 16


def backwards(path: Path, end: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole events of a file, the last first, each with the position at which it begins.

    Args:
        path: JSON lines, as `finetune_core.child.EventFile` writes them.
        end: Begin with the event that ends at this position; without it, with the last.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        size = file.seek(0, 2)
        position = size if end is None else min(end, size)
        rest = b""  # the beginning of what was read: perhaps only the end of a line
        while position:
            length = min(BLOCK, position)
            position -= length
            file.seek(position)
            rest = file.read(length) + rest
            first, *lines = rest.split(b"\n")
            if position == 0:
                lines.insert(0, first)
                first = b""
            begins = position + len(rest)
            for line in reversed(lines):
                begins -= len(line)
                event = _parsed(line)
                if event is not None:
                    yield begins, event
                begins -= 1
            rest = first


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An event; nothing where a write was torn, or where one is just being written."""
    try:
        event = json.loads(line) if line else None
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
