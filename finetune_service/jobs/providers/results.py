"""Results: the metrics of a finished job elsewhere, read from its result file, told to MLflow."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
from pathlib import Path

from finetune_core.hub.ports import Hub, Point
from finetune_service.jobs.progress import NAMES
from finetune_service.jobs.providers.base import Finetuning
from finetune_service.sdk.exceptions import ApiError

STEP = "step"
OURS = {theirs: ours for ours, theirs in NAMES.items()}
ID_TAG = "finetuning_id"


def plain(content: bytes) -> bytes:
    """A result file as CSV: OpenAI's own comes in base64, others' as it is.

    Raises:
        ApiError: It is neither.
    """
    if _is_table(content):
        return content
    try:
        decoded = base64.b64decode(content, validate=False)
    except binascii.Error:
        decoded = b""
    if not _is_table(decoded):
        raise ApiError("the result file is no table of metrics: its first column is not `step`")
    return decoded


def read_results(table: bytes) -> list[dict[str, float]]:
    """The rows of a table of metrics, by our names; what is empty or no finite number is not there.

    Raises:
        ApiError: A row has no step.
    """
    rows = []
    for line in csv.DictReader(io.StringIO(table.decode("utf-8-sig", "replace"))):
        found = {str(name): _number(value) for name, value in line.items()}
        row = {OURS.get(name, name): value for name, value in found.items() if value is not None}
        if STEP not in row:
            raise ApiError("the result file is no table of metrics: a row has no step")
        rows.append(row)
    return rows


def last_values(rows: list[dict[str, float]]) -> dict[str, float]:
    """The last value of each metric."""
    return {name: value for row in rows for name, value in row.items() if name != STEP}


def tell(hub: Hub, found: Finetuning, table: Path) -> str:
    """Tells the hub of a finished fine-tuning; told again, it has it once all the same.

    Args:
        hub: Where to.
        found: The fine-tuning.
        table: Its metrics, as `plain` gives them.

    Returns:
        The run's id.
    """
    rows = read_results(table.read_bytes())
    run_id = hub.find_run(ID_TAG, found.id)
    if run_id is None:
        tags = {ID_TAG: found.id, "provider": found.provider, "job_id": found.job_id or ""}
        run_id = hub.start_run(found.fine_tuned_model or found.id, tags)
    said = {
        "model.name": found.base_model,
        "fine_tuned_model": found.fine_tuned_model,
        "training_file": found.file_id,
        "trained_tokens": found.trained_tokens,
    }
    hub.log_params(run_id, {name: value for name, value in said.items() if value is not None})
    hub.log_file(run_id, table)
    # A point that is like another in name, value, step and time is that one to MLflow, so the time
    # is one that does not change.
    ended = float(found.finished_at or found.created_at)
    hub.log_points(
        run_id,
        [
            Point(name, value, int(row[STEP]), ended)
            for row in rows
            for name, value in row.items()
            if name != STEP
        ],
    )
    hub.end_run(run_id, "FINISHED")
    return run_id


def _is_table(content: bytes) -> bool:
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()[: len(STEP)] == STEP.encode()


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except (TypeError, ValueError):  # a list, where a row has more fields than the header
        return None
    return value if math.isfinite(value) else None
