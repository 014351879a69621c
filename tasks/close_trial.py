"""Closes a trial whose job has ended, and says what came of it."""

from __future__ import annotations

from prefect import get_run_logger

from finetune_core.sweep.sweep import Sweep
from finetune_core.sweep.tracking import SweepTracking
from finetune_core.sweep.trials import read_outcome, said
from tasks.terminal import Terminal


def close_trial(
    sweep: Sweep, tracking: SweepTracking, number: int, problem: str | None = None
) -> None:
    """Closes a trial by what its job has left; done again after a kill, it does no harm.

    Args:
        sweep: The sweep.
        tracking: Is told of it.
        number: The trial's.
        problem: Why the job has ended, where it may not say so itself.
    """
    job, stopped_at = sweep.job(number), sweep.study.trial(number).stopped_at
    if stopped_at is not None and read_outcome(job).get("status") != "succeeded":
        tracking.trial_stopped(number, stopped_at)
    record = sweep.settle(number, problem)
    tracking.tell_trials(sweep.records())
    line = said(record, sweep.goal.metric)
    with Terminal(f"trial {number}") as terminal:
        terminal.finished(line, record.seconds)
    get_run_logger().info("trial %d: %s", number, line)
