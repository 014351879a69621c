"""The few calls that the stack makes to Prefect's API."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import SecretStr

from finetune_core.failures import REST_SECONDS
from finetune_service.jobs.prefect_client import PrefectClient
from finetune_service.jobs.priority import Priority
from finetune_service.stack.parts import prefect_auth
from finetune_service.stack.settings import StackSettings

AT_WORK = ("PENDING", "RUNNING", "CANCELLING")
HANDED_BACK = "HandedBack"


class PrefectApi(AbstractContextManager["PrefectApi"]):
    """The stack's Prefect, asked with the stack's password; its calls raise as PrefectClient's do.

    Args:
        settings: Where it is; without them, where the environment says, as to a worker.
    """

    def __init__(self, settings: StackSettings | None = None) -> None:
        if settings:
            self._client = PrefectClient(
                f"{settings.address(settings.prefect_port)}/api",
                SecretStr(prefect_auth(settings)),
                direct=True,  # a proxy has no business on this machine
            )
        else:
            auth = os.environ.get("PREFECT_API_AUTH_STRING")
            self._client = PrefectClient(
                os.environ.get("PREFECT_API_URL"), SecretStr(auth) if auth else None
            )

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def create_pool(self, name: str) -> None:
        """Makes a work pool of processes, with a queue for each priority, if they are not there."""
        if name not in {pool["name"] for pool in self.pools()}:
            self._post("/work_pools/", name=name, type="process")
        known = {queue["name"] for queue in self._post(f"/work_pools/{name}/queues/filter")}
        for rank, priority in enumerate(Priority, start=1):
            if priority.queue not in known:
                self._post(f"/work_pools/{name}/queues", name=priority.queue, priority=rank)

    def pools(self) -> list[dict[str, Any]]:
        """The work pools, by name."""
        found: list[dict[str, Any]] = self._post("/work_pools/filter")
        return sorted(found, key=lambda pool: str(pool["name"]))

    def schedules(self) -> list[dict[str, Any]]:
        """Every deployment's schedules."""
        found = self._post("/deployments/filter")
        return [schedule for deployment in found for schedule in deployment["schedules"]]

    def activate(self, schedule: dict[str, Any]) -> None:
        """Lets a schedule make runs."""
        path = f"/deployments/{schedule['deployment_id']}/schedules/{schedule['id']}"
        self._client.patch(path, active=True)

    def worker_seen(self, pool: str) -> float | None:
        """When a pool's worker of the stack last said that it lives, in seconds since 1970."""
        found = self._post(f"/work_pools/{pool}/workers/filter")
        times = [
            datetime.fromisoformat(each["last_heartbeat_time"]).timestamp()
            for each in found
            if each["name"] == pool and each["last_heartbeat_time"]
        ]
        return max(times, default=None)

    def waiting(self, pool: str) -> int:
        """How many runs of a pool are due and have not begun."""
        now = datetime.now(timezone.utc).isoformat()
        return self._count(pool, ("SCHEDULED",), next_scheduled_start_time={"before_": now})

    def at_work(self, pool: str) -> int:
        """How many runs of a pool have a process, or are about to."""
        return self._count(pool, AT_WORK)

    def runs_of(self, pools: Sequence[str]) -> list[dict[str, Any]]:
        """The runs of some pools that are at work in a process."""
        found = self._at_work(work_pools={"name": {"any_": list(pools)}})
        return [run for run in found if (run["infrastructure_pid"] or "").isdigit()]

    def crash(self, run: dict[str, Any], message: str) -> None:
        """Says of a run, and of those within it, that its process ended: Prefect does not know."""
        kind = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
        state = {"type": kind, "message": message}
        self._post(f"/flow_runs/{run['id']}/set_state", state=state, force=True)
        for within in self._at_work(parent_flow_run_id={"any_": [run["id"]]}):
            self.crash(within, message)

    def hand_back(self, run_id: str) -> str:
        """Has a run whose process was ended begin anew on some worker, unless it had ended itself.

        Those within it began with it, and end with it.

        Returns:
            The kind of state that it is in now.
        """
        run = self._client.get(f"/flow_runs/{run_id}")
        kind = str(run["state_type"])
        if kind == "CANCELLING":
            self.crash(run, "it was cancelled while its worker was being stopped")
            return "CANCELLED"
        if kind in AT_WORK or kind == "CRASHED":  # by our own signal
            due = datetime.now(timezone.utc) + timedelta(seconds=REST_SECONDS)
            state = {
                "type": "SCHEDULED",
                "name": HANDED_BACK,
                "message": "Its worker was stopped; it goes on from its last checkpoint.",
                "state_details": {"scheduled_time": due.isoformat()},
            }
            self._post(f"/flow_runs/{run_id}/set_state", state=state, force=True)
            for within in self._at_work(parent_flow_run_id={"any_": [run_id]}):
                self.crash(within, "the run that it is part of was handed back")
            return "SCHEDULED"
        return kind

    def pending(self, pool: str, worker: str) -> list[str]:
        """The runs that a pool's worker of some name has taken, and that have not begun."""
        states = {"state": {"type": {"any_": ["PENDING"]}}}
        pools = {"name": {"any_": [pool]}}
        found = self._post("/flow_runs/filter", flow_runs=states, work_pools=pools)
        return [run["id"] for run in found if run["labels"].get("prefect.worker.name") == worker]

    def scheduled(self, ids: Iterable[str]) -> int:
        """How many of some runs are to begin, or to begin anew."""
        runs = {"id": {"any_": list(ids)}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        return int(self._post("/flow_runs/count", flow_runs=runs))

    def keep_automation(self, automation: dict[str, Any]) -> None:
        """Makes an automation, or makes the one of its name as it is given."""
        named = {"name": {"any_": [automation["name"]]}}
        found = self._post("/automations/filter", automations=named)
        if found:
            self._client.put(f"/automations/{found[0]['id']}", **automation)
        else:
            self._post("/automations/", **automation)

    def _at_work(self, *, work_pools: Any = None, **filters: Any) -> list[dict[str, Any]]:
        runs = {"state": {"type": {"any_": list(AT_WORK)}}, **filters}
        found: list[dict[str, Any]] = self._post(
            "/flow_runs/filter", flow_runs=runs, work_pools=work_pools
        )
        return found

    def _count(self, pool: str, states: tuple[str, ...], **filters: Any) -> int:
        runs = {"state": {"type": {"any_": list(states)}}, **filters}
        pools = {"name": {"any_": [pool]}}
        return int(self._post("/flow_runs/count", flow_runs=runs, work_pools=pools))

    def _post(self, path: str, **body: Any) -> Any:
        return self._client.post(path, **body)
