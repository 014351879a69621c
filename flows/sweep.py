"""The sweep flow: many trials of one config, the best of which faces the gate."""

from __future__ import annotations

from prefect import flow
from prefect.context import FlowRunContext

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import (
    DiskFullError,
    FineTuneError,
    HubError,
    JobInterruptedError,
    JobInUseError,
    JobPausedError,
    TrainingError,
)
from finetune_core.hub import open_hub
from finetune_core.sweep.best import find_card
from finetune_core.sweep.config import SweepConfig
from finetune_core.sweep.study import Tried
from finetune_core.sweep.sweep import Sweep, working_on_sweep
from finetune_core.sweep.tracking import SweepTracking
from finetune_core.sweep.trials import SweepResult, TrialRecord, markdown, read_outcome
from finetune_core.sweep.watching import watching
from finetune_core.trainers.control import Control, Wish
from finetune_core.types import job_id_of, new_id
from flows.finetune import finetune
from tasks.close_trial import close_trial
from tasks.judge_trial import judge_trial
from tasks.publish_table import publish_table
from tasks.submit_trials import submit_trials


@flow(name="sweep")
def sweep(
    config: PipelineConfig,
    space: SweepConfig,
    organization: str = "local",
    sweep_id: str | None = None,
) -> SweepResult:
    """Tries values of a config's fields, each trial a job, and has the best one face the gate.

    Rows and tokens are made by the first trial; others that differ only in how they train find
    them. Each trial's version is registered under the alias `trial` and moves no other; only the
    best one may become the champion.

    Args:
        config: What holds for all trials.
        space: What is tried, by whom it is chosen, and how often.
        organization: Whose it is: its files, its runs and its models lie apart.
        sweep_id: The id of a sweep that goes on where it stopped; a new sweep has none.

    Returns:
        The trials, and the best one's version.

    Raises:
        TrainingError: No trial was completed.
    """
    with working_on_sweep(config, space, organization, sweep_id or _own_id()) as working:
        tracking = SweepTracking(open_hub(organization), working)
        with tracking.run() as run_id:
            if space.deployment:
                submit_trials(working, tracking, space.deployment)
            else:
                for trial in working.due():
                    _run(working, tracking, trial)
            best, records = working.best(), working.records()
            if known := working.result():
                return known
            if best is None or best.version is None:
                raise TrainingError(_nothing(records))
            job = working.job(best.number)
            card = find_card(job, working.trial_config(best.values))
            result = SweepResult(
                sweep_id=working.id,
                run_id=run_id,
                metric=working.goal.metric,
                trials=records,
                best=best.number,
                registered=judge_trial(card, best.version, config.registry),
            )
            tracking.tell(result)
            working.keep(result)
    title = f"Sweep {working.id}"
    publish_table(organization, title, markdown(title, result.metric, records, result.best))
    return result


def _run(working: Sweep, tracking: SweepTracking, trial: Tried) -> None:
    """Runs a trial in this process, and closes it; one that was killed amid that is closed now."""
    number, job = trial.number, working.job(trial.number)
    problem = None
    tracking.trial_began(number)
    if trial.stopped_at is None and not read_outcome(job):
        control = Control(job.control)
        try:
            with watching(working, number, lambda: control.ask(Wish.PAUSE)):
                finetune.with_options(flow_run_name=job.id)(
                    working.trial_config(trial.values), job.organization, job.id
                )
        except (DiskFullError, HubError, JobInUseError):
            raise
        except JobInterruptedError as error:
            stopped = working.study.trial(number).stopped_at is not None
            if not (stopped and isinstance(error, JobPausedError)):
                raise
        except FineTuneError as error:
            problem = error.message
        finally:
            control.done(Wish.PAUSE)  # it may have come too late
    close_trial(working, tracking, number, problem)


def _own_id() -> str:
    """A new sweep's id, of this flow run: started anew, it is the same sweep."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.created is None:
        return new_id("sweep")
    return job_id_of(run.id, run.created).replace("ftjob", "sweep", 1)


def _nothing(records: list[TrialRecord]) -> str:
    last = next((each.problem for each in reversed(records) if each.problem), "all were pruned")
    return f"none of {len(records)} trials was completed; the last: {last}"
