"""What every task does around its one call: it is timed, logged, shown, told and retried alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from finetune_core import child
from finetune_core.child import Emit, Event
from finetune_core.exceptions import FineTuneError, InputError, JobInterruptedError
from finetune_core.failures import CRASHED
from finetune_core.job_events import JobEvents
from finetune_core.storage import finished
from finetune_core.trainers.control import Control
from finetune_core.types import Job, Record, StageRecord
from tasks.terminal import Terminal

R = TypeVar("R", bound=StageRecord)


def worth_a_retry(task: Any, task_run: Any, state: Any) -> bool:
    """Whether a failed task may succeed when it is run again: wrong input stays wrong."""
    try:
        state.result()
    except (InputError, JobInterruptedError):
        return False
    except Exception:
        return True
    return False


# A stage's own folder says whether it is done. Prefect's cache would keep the record alone,
# and give it also when the files that it names are gone. So a stage may be tried again at any time.
STAGE: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": len(CRASHED.backoff),
    "retry_delay_seconds": list(CRASHED.backoff),
    "retry_condition_fn": worth_a_retry,
}


def run_in_child(
    target: str, request: Record, record_type: type[R], *, final: Path, job: Job, hear: Emit
) -> R:
    """Runs a stage's function in a child process, unless its folder `final` is already whole."""
    return finished(final, record_type) or child.run(
        target, request, record_type, folder=job.logs, on_event=hear
    )


def run_stage(job: Job, verb: str, work: Callable[[Emit], R], summary: Callable[[R], str]) -> R:
    """Runs a stage's one call.

    Args:
        job: Whose stage it is.
        verb: The stage's name.
        work: The call; it is given whom to tell the events that it hears.
        summary: Says in a few words what came of it.
    """
    start = perf_counter()
    control, events = Control(job.control, job.attempt), JobEvents(job)
    control.check()
    events.say("stage_began", f"{verb} begins", stage=verb)
    with Terminal(verb) as terminal:

        def hear(event: Event) -> None:
            for observer in (terminal, events.hear):
                observer(event)

        try:
            record = work(hear)
        except JobInterruptedError:
            raise
        except Exception as error:
            if _is_tried_again(error):
                why = error.message if isinstance(error, FineTuneError) else repr(error)
                events.say("retried", f"{verb} is tried again: {why}", level="warn", stage=verb)
            raise
        control.check()
        seconds = perf_counter() - start
        record = record.model_copy(update={"seconds": seconds})
        text = f"{summary(record)}{' (cached)' if record.cached else ''}"
        terminal.finished(text, seconds)
    events.stage_ended(verb, record, text)
    get_run_logger().info("%s: %s, %.1f s", verb, text, seconds)
    return record


def _is_tried_again(error: Exception) -> bool:
    """Whether Prefect will run this task once more."""
    context = TaskRunContext.get()
    return (
        context is not None
        and not isinstance(error, InputError)
        and context.task_run.run_count <= context.task.retries
    )
