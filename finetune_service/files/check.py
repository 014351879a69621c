"""What can be said of an uploaded file before anybody has named the model that learns from it."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_core.child import Emit
from finetune_core.config.sections import DatasetConfig
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.types import CleanData, Record

# A file may be one to learn from or one to be held out, so a single good row is enough: with a
# row of ours held out, none of the file's own need be.
HELD_OUT = {"messages": [{"role": role, "content": "…"} for role in ("user", "assistant")]}


class FileCheckRequest(Record):
    """What a check is asked: the file, and an empty folder to work in."""

    path: Path
    folder: Path


class FileCheck(Record):
    """What was found: the rows that are left, and what a person should know of the others."""

    rows: int
    remarks: str | None


def check_file(request: FileCheckRequest, emit: Emit) -> FileCheck:
    """Reads a file as a job would, and counts what is left of it.

    Raises:
        InputError: Nothing can be learned from it.
    """
    held_out = request.folder / "held_out.jsonl"
    held_out.write_text(json.dumps(HELD_OUT))
    dataset = DatasetConfig(path=str(request.path), validation_path=str(held_out))
    clean = sanitize(SanitizeRequest(dataset=dataset, cache=request.folder / "cache"), emit)
    return FileCheck(rows=clean.train_rows, remarks=_remarks(clean))


def _remarks(clean: CleanData) -> str | None:
    remarks = [f"{n:,} rows flagged by {rule}" for rule, n in clean.flagged_by_rule.items()]
    remarks += clean.warnings
    if clean.dropped:
        rules = ", ".join(f"{n:,} by {rule}" for rule, n in clean.dropped_by_rule.items())
        remarks.append(f"{clean.dropped:,} of {clean.rows - 1:,} rows dropped ({rules})")
    return "; ".join(remarks) or None
