"""Scheduler: a job's flow run at Prefect. All that is asked of Prefect for jobs is asked here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.failures import REST_SECONDS
from finetune_service.exceptions import UnavailableError
from finetune_service.jobs.prefect_client import (
    PrefectClient,
    PrefectRefusedError,
    PrefectUnavailableError,
)
from finetune_service.jobs.priority import Priority
from finetune_service.jobs.states import FINAL, Status

DEPLOYED_SECONDS = 30.0  # for so long, a deployment is where it was
FRESH_SECONDS = 1.0  # for so long, what Prefect said holds for all requests
PAGE = 200  # the runs that Prefect tells of at once
KNOWN = 20_000  # the states that are remembered
PAUSE_DAYS = 30
RESTARTING = "Restarting"  # the name of the state in which a lost run waits
# From which on a run that a worker has taken, and that has not begun, is lost with its worker: a
# process that was killed before its first heartbeat is missed by nobody else.
CLAIM_SECONDS = 120.0
CANCEL_SECONDS = 120.0  # a worker that lives ends a cancelled run's process within 30 s

STATUSES = {
    "SCHEDULED": Status.QUEUED,
    "PENDING": Status.QUEUED,
    "RUNNING": Status.RUNNING,
    "CANCELLING": Status.RUNNING,
    "PAUSED": Status.PAUSED,
    "CANCELLED": Status.CANCELLED,
    "FAILED": Status.FAILED,
    "CRASHED": Status.QUEUED,  # until it is started again, or failed
    "COMPLETED": Status.SUCCEEDED,
}
UNSETTLED = [
    *("CANCELLING", "CRASHED", "PENDING"),
    *(kind for kind, status in STATUSES.items() if status in FINAL),
]


class RunState(NamedTuple):
    """A flow run's state: Prefect's kind, when it began, and what was said of it.

    `placed` says whether something else than a worker's own process waits for its turn, as a pod
    does for a machine: that may take long.
    """

    kind: str
    since: float
    message: str | None
    placed: bool = False

    @property
    def status(self) -> Status:
        """The job's state that it stands for."""
        return STATUSES[self.kind]

    @property
    def is_lost(self) -> bool:
        """Whether its process is gone, and nobody has ended it: it is to be started again."""
        forgotten = self.kind == "PENDING" and not self.placed
        return self.kind == "CRASHED" or (forgotten and time.time() > self.since + CLAIM_SECONDS)

    @property
    def is_abandoned(self) -> bool:
        """Whether it is cancelled, and no worker has ended it."""
        return self.kind == "CANCELLING" and time.time() > self.since + CANCEL_SECONDS


class ChangedError(UnavailableError):
    """A run is in another state by now, from which it does not get into the one that is asked."""


LOST = RunState("FAILED", 0.0, "Prefect does not know this job's flow run any more.")


class Scheduler:
    """Flow runs by their ids; threads may share it.

    Args:
        client: Prefect's API.
        deployment: The deployment whose runs jobs are, as `flow/deployment`.
    """

    def __init__(self, client: PrefectClient, deployment: str) -> None:
        self.deployment = deployment
        self._client = client
        self._locked = threading.Lock()
        self._states: dict[str, tuple[float, RunState]] = {}
        self._queue: tuple[float, list[str]] = (0.0, [])
        self._deployment = (0.0, "")

    def submit(
        self,
        job_id: str,
        organization: str,
        config: PipelineConfig,
        priority: Priority = Priority.NORMAL,
    ) -> str:
        """Makes a job's flow run, or finds the one that was made before.

        Returns:
            The flow run's id.

        Raises:
            UnavailableError: Prefect is away, or has no such deployment.
        """
        parameters = {
            "config": config.model_dump(mode="json"),
            "organization": organization,
            "job_id": job_id,
        }
        try:
            made = self._client.post(
                f"/deployments/{self._deployment_id()}/create_flow_run",
                name=job_id,
                parameters=parameters,
                tags=[f"org:{organization}", f"job:{job_id}"],
                idempotency_key=job_id,
                work_queue_name=priority.queue,
            )
        except PrefectRefusedError as error:
            if error.status != 404:
                raise
            self._deployment = (0.0, "")  # it was deleted, and perhaps made again
            raise PrefectUnavailableError(error.message) from None
        return str(made["id"])

    def state(self, run_id: str) -> RunState:
        """One run's state as it is now."""
        with self._locked:
            self._states.pop(run_id, None)
        return self.states([run_id])[run_id]

    def states(self, run_ids: Iterable[str]) -> dict[str, RunState]:
        """The states of runs as they were at most `FRESH_SECONDS` ago.

        Raises:
            UnavailableError: Prefect is away.
        """
        wanted = list(run_ids)
        with self._locked:  # so that of many requests at once, one asks for all
            fresh = time.monotonic() - FRESH_SECONDS
            missing = [
                each for each in wanted if each not in self._states or self._states[each][0] < fresh
            ]
            for ids in _pages(missing):
                runs = self._client.post(
                    "/flow_runs/filter", flow_runs={"id": {"any_": ids}}, limit=PAGE
                )
                found = {str(run["id"]): _state(run) for run in runs}
                self._remember({each: found.get(each, LOST) for each in ids})
            return {each: self._states[each][1] for each in wanted}

    def unsettled(self, run_ids: Iterable[str]) -> dict[str, RunState]:
        """The states of those runs alone of which nobody else takes care any more.

        They have ended, are lost or abandoned, or Prefect does not know them.

        For many runs: what Prefect tells of each run that it names takes it half a millisecond.

        Raises:
            UnavailableError: Prefect is away.
        """
        found: dict[str, RunState] = {}
        for ids in _pages(list(run_ids)):
            known = self._client.post("/flow_runs/count", flow_runs={"id": {"any_": ids}})
            if known < len(ids):
                states = self.states(ids)
            else:
                wanted = {"id": {"any_": ids}, "state": {"type": {"any_": UNSETTLED}}}
                runs = self._client.post("/flow_runs/filter", flow_runs=wanted, limit=PAGE)
                states = {str(run["id"]): _state(run) for run in runs}
            found.update(
                (each, at)
                for each, at in states.items()
                if at.status in FINAL or at.is_lost or at.is_abandoned
            )
        return found

    def position(self, run_id: str) -> int | None:
        """How many runs wait, this one among them, until it is its turn; None far behind."""
        with self._locked:
            asked, waiting = self._queue
            if asked < time.monotonic() - FRESH_SECONDS:
                waiting = self._waiting()
                self._queue = (time.monotonic(), waiting)
        return waiting.index(run_id) + 1 if run_id in waiting else None

    def _waiting(self) -> list[str]:
        """The runs that wait, in the order in which a worker takes them; the first of many."""
        found: list[str] = []
        for priority in Priority:
            runs = self._client.post(
                "/flow_runs/filter",
                flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
                deployments={"id": {"any_": [self._deployment_id()]}},
                work_pool_queues={"name": {"any_": [priority.queue]}},
                sort="NEXT_SCHEDULED_START_TIME_ASC",
                limit=PAGE,
            )
            found += [str(run["id"]) for run in runs]
            if len(runs) == PAGE:
                break
        return found

    def cancel(self, run_id: str) -> RunState:
        """Has a run ended: at once where it does not run, else by its worker."""
        lost = self.state(run_id).is_lost
        self._set(run_id, "CANCELLED" if lost else "CANCELLING", force=lost)
        return self.state(run_id)

    def start_again(self, run_id: str, seconds: float) -> None:
        """Has a lost run started again, after some seconds."""
        self._schedule(run_id, RESTARTING, seconds, force=True)

    def keep_waiting(self, run_id: str) -> bool:
        """Has a run wait on as it did that was reported lost once more before it was started.

        Prefect's worker reports each process that dies twice: when it is gone, and some seconds
        later, after it has looked for the flow's hooks, as infrastructure that is gone.

        Returns:
            Whether it was so, and nothing else has been lost.
        """
        states = self._client.get(f"/flow_run_states/?flow_run_id={run_id}")
        if len(states) < 2 or states[-2]["name"] != RESTARTING or states[-1]["type"] != "CRASHED":
            return False
        details = {"scheduled_time": states[-2]["state_details"]["scheduled_time"]}
        self._set(run_id, "SCHEDULED", name=RESTARTING, state_details=details, force=True)
        return True

    def fail(self, run_id: str, message: str) -> RunState:
        """Says of a lost run that it has failed."""
        self._set(run_id, "FAILED", message=message, force=True)
        return self.state(run_id)

    def give_up(self, run_id: str) -> RunState:
        """Says of an abandoned run that it has ended."""
        self._set(run_id, "CANCELLED", message="No worker has ended it.", force=True)
        return self.state(run_id)

    def hold(self, run_id: str) -> RunState:
        """Keeps a run that has not started, or is lost, from starting."""
        state = self.state(run_id)
        if state.kind == "SCHEDULED" or state.is_lost:
            until = datetime.now(timezone.utc) + timedelta(days=PAUSE_DAYS)
            details = {"pause_timeout": until.isoformat(), "pause_reschedule": True}
            # Forced: Prefect itself pauses only what runs.
            self._set(run_id, "PAUSED", name="Suspended", state_details=details, force=True)
        return self.state(run_id)

    def resume(self, run_id: str) -> RunState:
        """Has a paused run go on, when its last process is surely gone."""
        paused = self.state(run_id)
        if paused.kind == "PAUSED":
            self._schedule(run_id, "Resuming", paused.since + REST_SECONDS - time.time())
        return self.state(run_id)

    def _schedule(self, run_id: str, name: str, seconds: float, *, force: bool = False) -> None:
        start = datetime.now(timezone.utc) + timedelta(seconds=max(0.0, seconds))
        details = {"scheduled_time": start.isoformat()}
        self._set(run_id, "SCHEDULED", name=name, state_details=details, force=force)

    def _set(self, run_id: str, kind: str, *, force: bool = False, **state: Any) -> None:
        answer = self._client.post(
            f"/flow_runs/{run_id}/set_state", state={"type": kind, **state}, force=force
        )
        if answer["status"] in ("ABORT", "WAIT"):
            reason = answer["details"].get("reason")
            raise ChangedError(f"Prefect does not make the run {kind}: {reason}")

    def _deployment_id(self) -> str:
        """The deployment's id."""
        asked, found = self._deployment
        if not found or asked < time.monotonic() - DEPLOYED_SECONDS:
            try:
                found = str(self._client.get(f"/deployments/name/{self.deployment}")["id"])
            except PrefectRefusedError as error:
                if error.status != 404:
                    raise
                raise PrefectUnavailableError(
                    f"Prefect has no deployment {self.deployment}.",
                    hint="The operator deploys it: finetune-cli up.",
                ) from None
            self._deployment = (time.monotonic(), found)
        return found

    def _remember(self, states: dict[str, RunState]) -> None:
        """Takes states for fresh; those that are no longer are forgotten when there are many."""
        now = time.monotonic()
        if len(self._states) > KNOWN:
            fresh = now - FRESH_SECONDS
            self._states = {each: at for each, at in self._states.items() if at[0] >= fresh}
        self._states.update({run_id: (now, state) for run_id, state in states.items()})


def _pages(ids: list[str]) -> Iterator[list[str]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))


def _state(run: dict[str, Any]) -> RunState:
    state = run["state"]
    since = datetime.fromisoformat(state["timestamp"].replace("Z", "+00:00")).timestamp()
    where = run["infrastructure_pid"] or ""  # of a process the number, of a pod its name
    return RunState(state["type"], since, state["message"], bool(where) and not where.isdigit())
