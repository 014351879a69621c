"""Tells the hub about one job, and never stands in its way.

What cannot be told now is told later: what was told is remembered in the job's folder, each
fact by a marker and the events of the training by a position, so nothing is told twice, in
order, even by another process after a kill.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from finetune_core.child import Event, EventFile, files
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.data.report import read_report
from finetune_core.data.report_page import page
from finetune_core.exceptions import HubError
from finetune_core.hub.card import flat
from finetune_core.hub.curve import draw_curve
from finetune_core.hub.ports import Hub, Point
from finetune_core.storage import write_json
from finetune_core.types import (
    CleanData,
    DatasetSource,
    EvaluationReport,
    GateReport,
    Job,
    TokenizedData,
    TrainedCheckpoints,
)

MEASURED = (
    "train_loss",
    "train_token_accuracy",
    "valid_loss",
    "valid_token_accuracy",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "epoch",
    "epoch_seconds",
)
SENDING_SECONDS = 1.0  # between two sendings of metrics
RESTING_SECONDS = 60.0  # after the hub was found to be away

log = logging.getLogger(__name__)


class Tracking:
    """The tracking of one job.

    Args:
        hub: Where to.
        job: The job; its folder remembers what was told.
    """

    # Whoever finds the hub away spares the job's other stages the wait to find it too.
    _rest_until: ClassVar[dict[Path, float]] = {}

    def __init__(self, hub: Hub, job: Job) -> None:
        self._hub = hub
        self._job = job
        self._memory = job.folder / "tracking"
        self._memory.mkdir(parents=True, exist_ok=True)
        self._next_sending = 0.0

    def run_id(self) -> str:
        """The job's run, opened where that has not been done yet.

        Raises:
            HubUnavailableError: The hub is away.
        """
        return self.open_run(self._job.name, {})

    def open_run(self, name: str, tags: Mapping[str, str]) -> str:
        """The job's run; where it has none yet, one of that name is opened, with these tags too.

        Raises:
            HubUnavailableError: The hub is away.
        """
        file = self._memory / "run_id"
        if not file.exists():
            own = {"job_id": self._job.id, "organization": self._job.organization}
            # A process may have opened one, and been killed before it wrote that down.
            known = self._hub.find_run("job_id", self._job.id)
            write_json(file, known or self._hub.start_run(name, {**own, **tags}))
        return str(json.loads(file.read_text()))

    def tell_config(self, config: PipelineConfig) -> None:
        """Logs the config, as params and as the file."""

        def tell(run_id: str) -> None:
            self._hub.log_params(run_id, flat(config))
            self._hub.log_file(run_id, self._job.folder / "config.yaml")

        self._once("config", tell)

    def tell_data(self, config: PipelineConfig, clean: CleanData, tokens: TokenizedData) -> None:
        """Logs the data's digest, the ledger of its rows and the counts."""

        def tell(run_id: str) -> None:
            source = config.dataset.path
            if config.dataset.source is DatasetSource.LOCAL_FILE:
                source = str(Path(source).absolute())
            self._hub.log_dataset(
                run_id,
                name=Path(source).name,
                source=source,
                digest=clean.source_digest,
                context="training",
            )
            self._hub.log_file(run_id, tokens.ledger, "data")
            with tempfile.TemporaryDirectory() as folder:
                picture = Path(folder) / "data.html"
                picture.write_text(page(read_report(tokens.report), Path(source).name))
                self._hub.log_file(run_id, picture, "data")
            outcomes = ("rows", "kept", "changed", "dropped")
            counts = {name: getattr(tokens, name) for name in outcomes}
            splits = {"train": tokens.train_split, "validation": tokens.validation_split}
            if tokens.evaluation_split:
                splits["evaluation"] = tokens.evaluation_split
            for name, split in splits.items():
                counts[f"{name}_rows"] = split.rows
                counts[f"{name}_tokens"] = split.tokens
                counts[f"{name}_rows_too_long"] = split.too_long
            self._hub.log_params(run_id, {f"data.{name}": n for name, n in counts.items()})

        self._once("data", tell)

    def tell_event(self, event: Event) -> None:
        """Sends what the training has measured since the last sending, now and then."""
        if time.monotonic() >= self._next_sending:
            self._next_sending = time.monotonic() + SENDING_SECONDS
            self._try(self._send_events)

    def tell_training(self, trained: TrainedCheckpoints) -> None:
        """Sends the rest of the training's metrics, its totals and the picture of its loss."""
        self._try(self._send_events)

        def tell(run_id: str) -> None:
            totals = {
                "steps": trained.steps,
                "trained_tokens": trained.trained_tokens,
                "train_seconds": trained.seconds,
            }
            self._hub.log_params(
                run_id,
                {
                    f"model.{name}": getattr(trained, name)
                    for name in ("parameters", "trained_parameters", "precision", "device")
                },
            )
            with tempfile.TemporaryDirectory() as folder:
                picture = Path(folder) / "loss_curve.png"
                draw_curve((event for event, _ in self._events().read()), picture)
                self._hub.log_file(run_id, picture)
            self._hub.log_points(run_id, self._points(totals))

        self._once("training", tell)

    def tell_report(self, report: EvaluationReport) -> None:
        """Logs both models' metrics, the report and the generations as a table."""

        def tell(run_id: str) -> None:
            values = {f"base_{name}": value for name, value in report.base.items()}
            self._hub.log_file(run_id, report.markdown)
            self._hub.log_table(run_id, report.read_samples(), "samples.json")
            self._hub.log_points(run_id, self._points({**values, **report.tuned}))

        self._once("report", tell)

    def tell_gate(self, gate: GateReport) -> None:
        """Logs the gate's report, and 1 or 0 for whether it was passed."""

        def tell(run_id: str) -> None:
            self._hub.log_file(run_id, gate.markdown)
            self._hub.log_points(run_id, self._points({"gate_passed": float(gate.verdict.passed)}))

        self._once("gate", tell)

    def end(self, status: str) -> None:
        """Closes the run as FINISHED, FAILED or KILLED, the job's events kept with it."""

        def tell(run_id: str) -> None:
            self._send_events(run_id)  # the last seconds of a training that was ended
            if self._job.events.exists():
                self._hub.log_file(run_id, self._job.events)
            self._hub.end_run(run_id, status)

        self._try(tell)

    @contextmanager
    def system_metrics(self) -> Iterator[None]:
        """Samples the machine into the run while the block lasts."""
        with ExitStack() as stack:
            self._try(lambda run_id: stack.enter_context(self._hub.system_metrics(run_id)))
            yield

    def insist(self) -> None:
        """Forgets that the hub was away: what comes next is tried again at once."""
        self._rest_until.pop(self._memory, None)

    def _once(self, fact: str, tell: Callable[[str], None]) -> None:
        """Tells a fact unless it was told. Points go last: all else may be told twice unseen."""
        marker = self._memory / fact
        if not marker.exists() and self._try(tell):
            marker.touch()

    def _try(self, tell: Callable[[str], object]) -> bool:
        if time.monotonic() < self._rest_until.get(self._memory, 0.0):
            return False
        try:
            tell(self.run_id())
        except HubError as error:
            log.warning("not tracked for now: %s", error)
            self._rest_until[self._memory] = time.monotonic() + RESTING_SECONDS
            return False
        return True

    def _events(self) -> EventFile:
        return EventFile(files(self._job.logs, "train").events)

    def _send_events(self, run_id: str) -> None:
        position = self._memory / "events_sent"
        offset = int(position.read_text()) if position.exists() else 0
        points: list[Point] = []
        for event, behind in self._events().read(offset):
            points += [
                Point(name, float(event[name]), event["step"], event["time"])
                for name in MEASURED
                if name in event
            ]
            offset = behind
        if points:
            self._hub.log_points(run_id, points)
            write_json(position, offset)

    def _points(self, values: dict[str, float]) -> list[Point]:
        return [Point(name, float(value), 0, time.time()) for name, value in values.items()]
