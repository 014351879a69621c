"""What every task does around its one call: it is timed, logged, shown and retried alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE

from finetune_core import child
from finetune_core.exceptions import InputError
from finetune_core.storage import finished
from finetune_core.types import Job, Record, StageRecord
from tasks.terminal import Terminal

R = TypeVar("R", bound=StageRecord)

# A stage's own folder says whether it is done. Prefect's cache would keep the record alone,
# and give it also when the files that it names are gone.
STAGE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


def worth_a_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a failed task may succeed when it is run again: wrong input stays wrong."""
    try:
        state.result()
    except InputError:
        return False
    except Exception:
        return True
    return False


def run_in_child(
    target: str, request: Record, record_type: type[R], *, final: Path, job: Job, terminal: Terminal
) -> R:
    """Runs a stage's function in a child process, unless its folder `final` is already whole."""
    return finished(final, record_type) or child.run(
        target, request, record_type, folder=job.logs, on_event=terminal
    )


def run_stage(verb: str, work: Callable[[Terminal], R], summary: Callable[[R], str]) -> R:
    """Runs a stage's one call.

    Args:
        verb: The stage's name.
        work: The call; it gives the terminal the events that it hears.
        summary: Says in a few words what came of it.
    """
    start = perf_counter()
    with Terminal(verb) as terminal:
        record = work(terminal)
        seconds = perf_counter() - start
        record = record.model_copy(update={"seconds": seconds})
        text = f"{summary(record)}{' (cached)' if record.cached else ''}"
        terminal.finished(text, seconds)
    get_run_logger().info("%s: %s, %.1f s", verb, text, seconds)
    return record
