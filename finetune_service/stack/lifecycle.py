"""up and down: the parts are started, waited for, and ended."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from filelock import FileLock
from sqlalchemy.engine import URL

from finetune_service.jobs.prefect_client import PREFECT_ERRORS
from finetune_service.organizations import Organizations
from finetune_service.stack import deploy, postgres
from finetune_service.stack.exceptions import PortTakenError
from finetune_service.stack.handing_back import hand_back
from finetune_service.stack.health import healthy
from finetune_service.stack.parts import API, MLFLOW, POSTGRES, PREFECT, WORKER, Part, parts
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.processes import end, end_orphans, jobs, processes, wait_until
from finetune_service.stack.settings import StackSettings
from finetune_service.stack.supervision import Supervisor, failure

STOP_SECONDS = 10.0  # more than the supervisor gives to a part that it stops
GONE_SECONDS = 30.0  # in which a killed process is out of the list of processes
FIRST_ORGANIZATION = "local"  # the one that jobs without the API belong to

Say = Callable[[str], None]


class Started(NamedTuple):
    """What `up` tells."""

    parts: list[Part]
    server: URL | None
    key: str | None
    """The first API key, on the first `up` alone."""
    seconds: float


def up(settings: StackSettings, say: Say = lambda text: None) -> Started:
    """Starts what does not run, waits until all is healthy, and deploys.

    Args:
        settings: What the stack is told.
        say: Is told what is done, as it is done.

    Raises:
        PortTakenError: Another program listens on a part's port.
        PostgresMissingError: There is no PostgreSQL to start.
        PartFailedError: A part ended, or is not healthy in time.
    """
    start = time.perf_counter()
    with _alone(settings):
        deploy.deployments(settings)  # nothing starts where nothing could be deployed
        settings.keep()
        supervisor = Supervisor(settings)
        if not supervisor.runs():
            end_orphans(settings)
            wait_until(lambda: not postgres.Cluster(settings).is_ending(), GONE_SECONDS)
        server = _server(settings)
        wanted = parts(settings, server)
        _check_ports(wanted, supervisor)
        supervisor.configure(wanted)
        starting = _Starting(settings, supervisor, server, say)
        by_name = {part.name: part for part in wanted}
        if POSTGRES in by_name:
            starting.start(by_name[POSTGRES])
        if server is not None:
            version = postgres.create_databases(server)
            say(f"database   PostgreSQL {version}")
        # Prefect, MLflow and the API do not wait for each other; workers and deployments need
        # Prefect alone.
        with ThreadPoolExecutor() as pool:
            others = [pool.submit(starting.start, by_name[name]) for name in (MLFLOW, API)]
            starting.start(by_name[PREFECT])
            _crash_lost_runs(settings)
            deploy.create_pools(settings)
            others += [pool.submit(starting.start, part) for part in wanted if part.pool]
            deploy.deploy(settings)
            say("deployed   prefect.yaml")
            for other in others:
                other.result()
        return Started(wanted, server, _first_key(settings), time.perf_counter() - start)


def down(settings: StackSettings) -> int:
    """Ends every process of the stack.

    Returns:
        How many jobs were at work and are handed back: the next `up` goes on with them.
    """
    with _alone(settings):
        supervisor = Supervisor(settings)
        names = supervisor.states()
        at_work = jobs(settings)
        workers = [name for name in names if name.startswith(WORKER)]
        supervisor.stop(workers, settings.worker_stop_seconds + STOP_SECONDS)
        handed_back = _hand_back(settings, at_work) if at_work else 0
        if supervisor.runs():
            supervisor.stop(name for name in names if name != POSTGRES)
            supervisor.stop([POSTGRES] if POSTGRES in names else [])
            supervisor.shutdown()
        end(processes(settings))
    return handed_back


def _hand_back(settings: StackSettings, at_work: Iterable[str]) -> int:
    """Hands back the jobs that have outlived their worker.

    Returns:
        How many of those that were at work are to go on.
    """
    with PrefectApi(settings) as prefect:
        hand_back(jobs(settings), prefect, settings.worker_grace_seconds)
        try:
            return prefect.scheduled(at_work)
        except PREFECT_ERRORS:  # one that is away must not keep the rest up
            return 0


class _Starting:
    """Starts parts and waits for them."""

    def __init__(
        self, settings: StackSettings, supervisor: Supervisor, server: URL | None, say: Say
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._server = server
        self._say = say

    def start(self, part: Part) -> None:
        """Starts a part unless it runs, and waits until it is healthy."""
        settings = self._settings
        supervisor = self._supervisor
        start = time.perf_counter()
        supervisor.start(part.name)

        pids: set[int] = set()

        def ended() -> bool:
            state = supervisor.states()[part.name]
            pids.update({state.pid} - {0})
            return state.failed or len(pids) > 1  # it was started again already

        def settled() -> bool:
            state = supervisor.states()[part.name]
            return ended() or (
                state.running and healthy(settings, part, self._server, state.started)
            )

        if not wait_until(settled, settings.start_seconds):
            raise failure(
                supervisor, part.name, f"is not healthy in {settings.start_seconds:.0f} s"
            )
        if ended():
            raise failure(supervisor, part.name, "has ended")
        self._say(f"{part.name:<10} {time.perf_counter() - start:.1f} s")


@contextmanager
def _alone(settings: StackSettings) -> Iterator[None]:
    """Lets one `up` or `down` at a time go on."""
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(settings.folder / "lock"):
        yield


def _server(settings: StackSettings) -> URL | None:
    """The PostgreSQL server of the stack, made if it is to be a private one; None for SQLite."""
    server = server_url(settings)
    if server is not None and settings.database_url is None:
        postgres.Cluster(settings).create()
    return server


def server_url(settings: StackSettings) -> URL | None:
    """The PostgreSQL server of the stack; None for SQLite."""
    if settings.sqlite:
        return None
    return postgres.given_url(settings) or postgres.Cluster(settings).url()


def _check_ports(wanted: list[Part], supervisor: Supervisor) -> None:
    """Finds ports that others listen on, before anything is started.

    Raises:
        PortTakenError: There is one; the error names it and its setting.
    """
    states = supervisor.states()
    for part in wanted:
        state = states.get(part.name)
        if part.port and not (state and state.running) and _taken(part):
            raise PortTakenError(
                f"port {part.port} of {part.name} is taken by another program",
                hint=f"Set {part.setting} to another one.",
            )


def _taken(part: Part) -> bool:
    family, kind, protocol, _, address = socket.getaddrinfo(
        part.host, part.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _first_key(settings: StackSettings) -> str | None:
    """Makes the first organisation and its key, where there is none yet."""
    organizations = Organizations(settings.home)
    if organizations.list():
        return None
    organizations.create(FIRST_ORGANIZATION)
    return organizations.create_key(FIRST_ORGANIZATION, "first").secret


def _crash_lost_runs(settings: StackSettings) -> None:
    """Says in Prefect of runs whose process is gone that they ended; else they ran for good."""
    with PrefectApi(settings) as prefect:
        at_work = prefect.runs_of(settings.pools)
        alive = jobs(settings)  # looked at later, so that none which has just begun is missed
        for run in at_work:
            if run["id"] not in alive:
                prefect.crash(run, "its process is gone: the worker or the machine was stopped")
