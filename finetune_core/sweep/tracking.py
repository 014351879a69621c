"""Tells the hub of a sweep: one run for the whole, below which the trials' own runs are shown."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_core.exceptions import HubError
from finetune_core.hub.ports import PARENT_RUN, Hub, Point
from finetune_core.hub.tracking import Tracking
from finetune_core.job_events import JobEvents
from finetune_core.storage import write_json
from finetune_core.sweep.picture import draw_trials
from finetune_core.sweep.space import Choices, Span
from finetune_core.sweep.study import State
from finetune_core.sweep.sweep import FILE, Sweep
from finetune_core.sweep.trials import SweepResult, TrialRecord, markdown

log = logging.getLogger(__name__)


class SweepTracking:
    """The tracking of one sweep.

    Args:
        hub: Where to.
        sweep: The sweep; its folder remembers its run.
    """

    def __init__(self, hub: Hub, sweep: Sweep) -> None:
        self._hub, self._sweep = hub, sweep
        self._file = sweep.folder / "run_id"

    def run_id(self) -> str:
        """The sweep's run, opened where that has not been done yet.

        Raises:
            HubUnavailableError: The hub is away.
        """
        if not self._file.exists():
            sweep = self._sweep
            tags = {"sweep_id": sweep.id, "organization": sweep.organization}
            # A process may have opened one, and been killed before it wrote that down.
            known = self._hub.find_run("sweep_id", sweep.id)
            run_id = known or self._hub.start_run(f"sweep {sweep.name}", tags)
            self._hub.log_params(run_id, _params(sweep))
            self._hub.log_file(run_id, sweep.folder / FILE)
            with tempfile.TemporaryDirectory() as folder:
                config = Path(folder) / "config.yaml"
                sweep.config.to_yaml(config)
                self._hub.log_file(run_id, config)
            write_json(self._file, run_id)
        return str(json.loads(self._file.read_text()))

    def trial_began(self, number: int) -> None:
        """Opens a trial's run below the sweep's, for its job to find.

        Raises:
            HubUnavailableError: The hub is away: the run would be no part of the sweep.
        """
        tags = {PARENT_RUN: self.run_id(), "sweep_id": self._sweep.id, "trial": str(number)}
        Tracking(self._hub, self._sweep.job(number)).open_run(f"trial {number}", tags)

    def trial_stopped(self, number: int, epoch: float) -> None:
        """Closes the run and the job of a trial that was to stop, and has."""
        job = self._sweep.job(number)
        why = f"worse at epoch {epoch:g} than the median of the trials before"
        JobEvents(job).say("cancelled", f"The trial was pruned: {why}.")
        write_json(job.outcome, {"status": "cancelled", "finished_at": time.time()})
        tracking = Tracking(self._hub, job)
        tracking.end("KILLED")
        self._try(lambda: self._hub.tag_run(tracking.run_id(), "pruned", why))

    def tell_trials(self, records: list[TrialRecord]) -> None:
        """Keeps the table of the trials so far, for people."""
        file = self._sweep.folder / "trials.md"
        best = self._sweep.best()
        goal = self._sweep.goal
        number = best.number if best else None
        file.write_text(markdown(f"Sweep {self._sweep.id}", goal.metric, records, number))
        self._try(lambda: self._hub.log_file(self.run_id(), file))

    def tell(self, result: SweepResult) -> None:
        """Keeps the table of the trials, their picture and the best one."""
        run_id, folder = self.run_id(), self._sweep.folder
        best = result.trials[result.best]
        told = folder / f"told-{len(result.trials)}"  # a hub adds to a table that is there
        if not told.exists():
            more = any(folder.glob("told-*"))
            name = f"trials-{len(result.trials)}.json" if more else "trials.json"
            self._hub.log_table(run_id, [_row(each) for each in result.trials], name)
            told.touch()
        picture = folder / "sweep.png"
        draw_trials(result.trials, self._sweep.goal, picture)
        self._hub.log_file(run_id, picture)
        facts = {"best_trial": result.best, "best_job": best.job_id, "best": result.registered.ref}
        for name, value in facts.items():
            self._hub.tag_run(run_id, name, str(value))
        if best.value is not None:
            point = Point(f"best_{result.metric}", best.value, len(result.trials), time.time())
            self._hub.log_points(run_id, [point])

    @contextmanager
    def run(self) -> Iterator[str]:
        """Has the sweep's run closed behind the block, by how that ends."""
        status, run_id = "KILLED", self.run_id()
        try:
            yield run_id
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._try(lambda: self._hub.end_run(run_id, status))

    def _try(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except HubError as error:
            log.warning("not tracked: %s", error)


def _params(sweep: Sweep) -> dict[str, object]:
    told = sweep.tries.model_dump(mode="json", exclude={"space", "metric", "direction"})
    fields = {f"space.{path}": _told(of) for path, of in sweep.space.items()}
    goal = sweep.goal
    return {
        **{f"sweep.{name}": value for name, value in told.items()},
        "sweep.metric": goal.metric,
        "sweep.direction": "lower" if goal.lower else "higher",
        **fields,
    }


def _told(of: Choices | Span) -> str:
    """What a field is tried with."""
    if isinstance(of, Choices):
        return str(list(of.values))
    return f"{of.low:g}..{of.high:g}{':log' if of.log else ''}"


def _row(record: TrialRecord) -> dict[str, object]:
    """A trial's row in the table that the hub shows."""
    state = record.state.value
    row: dict[str, object] = {"trial": record.number, "state": state, **record.values}
    row |= {name: getattr(record, name) for name in ("value", "valid_loss", "seconds")}
    row |= {"cached": " ".join(record.cached), "job_id": record.job_id, "version": record.version}
    if record.state is State.FAILED:
        row["problem"] = record.problem
    return row
