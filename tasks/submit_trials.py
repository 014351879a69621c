"""Has the trials of a sweep run by a deployment: submitted, watched, stopped and waited for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling

from finetune_core.sweep.study import Tried
from finetune_core.sweep.sweep import Sweep
from finetune_core.sweep.tracking import SweepTracking
from finetune_core.sweep.watching import Watch
from tasks.close_trial import close_trial
from tasks.submit_job import submit_job

LOOKING_SECONDS = 1.0
# For so long a run that has crashed may be started again: the stack does that by itself.
CRASHED_SECONDS = 300.0


class Submitted(NamedTuple):
    """A trial that a deployment runs."""

    trial: Tried
    run_id: UUID
    watch: Watch


def submit_trials(sweep: Sweep, tracking: SweepTracking, deployment: str) -> None:
    """Runs all trials of a sweep, at most `parallel` at once.

    The first one is alone until its rows are tokens, which the others then find. A run that was
    submitted before this process was killed is found again, and not submitted twice.

    Args:
        sweep: The sweep.
        tracking: Opens the trials' runs.
        deployment: What runs them, as `flow/deployment`.
    """
    due, running = sweep.due(), dict[int, Submitted]()
    tokenized = False
    with get_client(sync_client=True) as client:
        while True:
            while len(running) < (sweep.tries.parallel if tokenized else 1):
                trial = next(due, None)
                if trial is None:
                    break
                running[trial.number] = _submit(sweep, tracking, trial, deployment)
            if not running:
                return
            time.sleep(LOOKING_SECONDS)
            for number, each in list(running.items()):
                if each.watch.look():
                    _stop(client, each.run_id)
                tokenized |= each.watch.tokenized
                problem = _ended(client.read_flow_run(each.run_id), sweep.job(number).folder)
                if problem is not None:
                    close_trial(sweep, tracking, number, problem)
                    del running[number]
                    tokenized = True


def _submit(sweep: Sweep, tracking: SweepTracking, trial: Tried, deployment: str) -> Submitted:
    job = sweep.job(trial.number)
    tracking.trial_began(trial.number)
    config = sweep.trial_config(trial.values)
    run = submit_job(deployment, config, job.organization, job.id, [f"sweep:{sweep.id}"])
    get_run_logger().info("trial %d is %s", trial.number, job.id)
    if trial.stopped_at is not None:  # it was decided before this process began
        with get_client(sync_client=True) as client:
            _stop(client, run.id)
    return Submitted(trial, run.id, Watch(sweep, trial.number))


def _stop(client: SyncPrefectClient, run_id: UUID) -> None:
    """Has a run cancelled, where it has not ended yet."""
    state = client.read_flow_run(run_id).state
    if state is not None and not state.is_final():
        client.set_flow_run_state(run_id, Cancelling())


def _ended(run: FlowRun, folder: Path) -> str | None:
    """What may be said of a run that has ended; none while it may still come to something."""
    state = run.state
    if state is None or not state.is_final():
        return None
    if (
        state.type is StateType.CRASHED
        and time.time() < state.timestamp.timestamp() + CRASHED_SECONDS
    ):
        return None
    if state.is_completed():
        return f"it has left nothing in {folder}: the workers must have the same FINETUNE_HOME"
    return f"{state.name}: {state.message or 'nothing more is known'}"
