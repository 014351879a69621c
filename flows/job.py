"""A job around its stages: opened before the first, and how it ended written down.

In a run of a deployment, a job that is paused suspends its flow run, so that its process ends and
its place is free; the run begins anew when it is resumed, and finds the job by its id.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, Pause
from prefect.flow_runs import suspend_flow_run
from prefect.states import Scheduled

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import (
    ConfigError,
    DiskFullError,
    FineTuneError,
    HubUnavailableError,
    InputError,
    JobHandedBackError,
    JobInterruptedError,
    JobPausedError,
    JobSupersededError,
)
from finetune_core.failures import REST_SECONDS
from finetune_core.hub import open_hub
from finetune_core.hub.card import JobResult
from finetune_core.hub.tracking import Tracking
from finetune_core.job_events import JobEvents
from finetune_core.jobs import open_job, working_on
from finetune_core.storage import lacks_room, write_json
from finetune_core.trainers.control import Control, Wish
from finetune_core.types import Job, job_id_of

PAUSE_SECONDS = 30 * 24 * 3600  # then Prefect gives a suspended run up
HUB_SECONDS = 5 * 60  # after which a hub that was away may be back

log = logging.getLogger(__name__)


class RunningJob:
    """A job that is worked on, and what came of it when it is done."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result: JobResult | None = None


@contextmanager
def running_job(
    config: PipelineConfig, organization: str, job_id: str | None
) -> Iterator[RunningJob]:
    """Opens a job; as it ends, closes its run and writes down how, or suspends it.

    Raises:
        DiskFullError: The disk is full, and there is no flow run to suspend.
        JobInUseError: Another process works on the job.
        JobPausedError: The job was asked to pause, and there is no flow run to suspend.
        Pause: The flow run is suspended.
    """
    run = _deployed_run()
    job_id = job_id or own_job_id()
    with _pausing_on_a_full_disk(run), _working(run, config, organization, job_id) as running:
        yield running


def own_job_id() -> str | None:
    """The id of the job of this process's flow run: the same when the run begins anew."""
    run = _deployed_run()
    return job_id_of(run.id, run.created) if run and run.created else None


@contextmanager
def _pausing_on_a_full_disk(run: FlowRun | None) -> Iterator[None]:
    """Suspends a run that has no room to write: also where it cannot even say that it pauses."""
    try:
        yield
    except Exception as error:
        if isinstance(error, JobInterruptedError) or not lacks_room(error):
            raise
        log.warning("the job pauses: %s", error)
        if run:
            suspend_flow_run(timeout=PAUSE_SECONDS, key=uuid.uuid4().hex)
        raise DiskFullError(
            f"paused, as the disk has no room: {error}",
            hint="Free space on it, and resume the job.",
        ) from error


@contextmanager
def _working(
    run: FlowRun | None, config: PipelineConfig, organization: str, job_id: str | None
) -> Iterator[RunningJob]:
    """Works on a job, and tells of its end all who want to know."""
    opened = open_job(config, organization, job_id=job_id)
    # Prefect starts a run anew only where its process has ended, or was taken for dead.
    with working_on(opened, take_over=run is not None) as job, _handing_back(job):
        if run:
            _introduce(run, job, config)
        job.outcome.unlink(missing_ok=True)  # that of an earlier try
        events, running = JobEvents(job), RunningJob(job)
        events.started()
        tracking = Tracking(open_hub(organization), job)
        tracking.tell_config(config)
        try:
            yield running
        except JobSupersededError as superseded:
            log.warning("%s: %s", job.id, superseded)
            if run:  # its state is that of the attempt which goes on
                raise Abort(superseded.message) from None
            raise
        except JobHandedBackError as handed_back:
            events.say("handed_back", f"The worker stops; the job is {handed_back.message}.")
            if run:
                _schedule_again(run, "HandedBack", REST_SECONDS)
                raise Pause(handed_back.message) from None
            raise
        except HubUnavailableError as away:
            if not run:
                _failed(job, events, tracking, away)
                raise
            # All is done but for what the hub is needed for; meanwhile others may have the place.
            minutes = HUB_SECONDS // 60
            what = f"{away.message}; the job goes on in {minutes} minutes"
            events.say("waits", what, level="warn")
            _schedule_again(run, "WaitsForHub", HUB_SECONDS)
            raise Pause(away.message) from None
        except JobPausedError as paused:
            events.say("paused", f"The job is {paused.message}.")
            if run:
                suspend_flow_run(timeout=PAUSE_SECONDS, key=uuid.uuid4().hex)
            raise
        except Pause:  # in Prefect, by a person
            events.say("paused", "The job is paused by Prefect.")
            raise
        except Exception as error:
            if lacks_room(error):
                raise
            _failed(job, events, tracking, error)
            raise
        except BaseException:
            if run and _is_cancelled(run):
                events.say("cancelled", "The job was cancelled.")
                _write_outcome(job, "cancelled")
            else:  # it can go on
                events.say("interrupted", "The job was interrupted.", level="warn")
            tracking.end("KILLED")
            raise
        events.say("succeeded", "The job has succeeded.")
        if result := running.result:
            _write_outcome(
                job,
                "succeeded",
                registered=result.registered.model_dump(
                    mode="json", exclude={"folder", "seconds", "cached", "gate"}
                ),
                trained_tokens=result.trained.trained_tokens,
                metrics=result.report.tuned,
            )
        tracking.end("FINISHED")


@contextmanager
def _handing_back(job: Job) -> Iterator[None]:
    """Has the job handed back when this process is told that its worker stops, by SIGUSR1."""
    control = Control(job.control)
    control.done(Wish.HAND_BACK)  # that of an earlier attempt
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: control.ask(Wish.HAND_BACK))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _schedule_again(run: FlowRun, name: str, seconds: float) -> None:
    """Has some worker take the run up after some seconds, when this process has surely ended."""
    due = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Scheduled(name=name, scheduled_time=due), force=True)


def _failed(job: Job, events: JobEvents, tracking: Tracking, error: Exception) -> None:
    cause = _cause(error)
    events.say("failed", cause["message"], level="error", error=cause)
    _write_outcome(job, "failed", error=cause)
    tracking.end("FAILED")


def _deployed_run() -> FlowRun | None:
    """This process's flow run, where it is a deployment's; any other can only begin anew."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run and run.deployment_id else None


def _introduce(run: FlowRun, job: Job, config: PipelineConfig) -> None:
    """Makes the run findable as the job and the job as the run, where the service has not."""
    tags = {*run.tags, f"org:{job.organization}", f"job:{job.id}"}
    if run.name != job.id or tags != set(run.tags):
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, name=job.id, tags=tags)
    file = job.folder / "job.json"
    if not file.exists():
        record = {
            "id": job.id,
            "name": job.name,
            "organization": job.organization,
            "created_at": int(time.time()),
            "flow_run_id": str(run.id),
            "model": config.model.name,
            "seed": config.training.seed,
        }
        write_json(file, record)


def _cause(error: Exception) -> dict[str, Any]:
    """Why a job failed: whether its input must change, and what a person reads."""
    known = isinstance(error, FineTuneError)
    return {
        "code": "user_error" if isinstance(error, InputError) else "error",
        "message": str(error) if known else f"{type(error).__name__}: {error}",
        "param": error.faults[0].path if isinstance(error, ConfigError) else None,
    }


def _write_outcome(job: Job, status: str, **facts: Any) -> None:
    write_json(job.outcome, {"status": status, "finished_at": time.time(), **facts})


def _is_cancelled(run: FlowRun) -> bool:
    """Whether it was Prefect that ended this process, and for good: a worker may also just stop."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.id).state
    except Exception as error:
        log.warning("Prefect does not say why this process ends: %s", error)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
