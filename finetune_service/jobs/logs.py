"""What a job's processes have written, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def log_lines(folder: Path) -> Iterator[str]:
    """The lines of a job's logs, each log under its name.

    Stages write one after the other, so what is new stands at the end.

    Args:
        folder: The job's.
    """
    logs = (folder / "logs").glob("*.log")
    for file in sorted(logs, key=lambda file: file.stat().st_mtime):
        yield f"==> {file.name} <=="
        with file.open(errors="replace") as lines:
            yield from (line.rstrip("\n") for line in lines)
