"""What a job shows in the Prefect UI: its progress while it trains, and its report."""

from __future__ import annotations

import logging
from time import monotonic
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from finetune_core.child import Event
from finetune_core.data.report import read_report
from finetune_core.data.report_page import markdown
from finetune_core.types import EvaluationReport, Job, TokenizedData

SECONDS_BETWEEN_UPDATES = 2.0

log = logging.getLogger(__name__)


class ProgressArtifact:
    """The share of the steps done. A Prefect server that is away does not stop the training."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._id: UUID | None = None
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        """Shows a step of the training."""
        if event["type"] == "step" and monotonic() >= self._next:
            self._next = monotonic() + SECONDS_BETWEEN_UPDATES
            self._show(100.0 * event["step"] / event["total_steps"])

    def finished(self) -> None:
        """Shows that all is done, early stopping or not."""
        self._show(100.0)

    def _show(self, percent: float) -> None:
        try:
            if self._id is None:
                created = create_progress_artifact(
                    percent, key=_key(self._job, "progress"), description=self._job.name
                )
                self._id = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self._id, percent)
        except Exception as error:
            log.warning("progress is not shown in Prefect: %s", error)


def publish_data(job: Job, tokens: TokenizedData) -> None:
    """Shows what was found in the data."""
    _publish(job, "data", markdown(read_report(tokens.report)))


def publish_report(job: Job, report: EvaluationReport) -> None:
    """Shows the report of the evaluation."""
    _publish(job, "report", report.markdown.read_text())


def _publish(job: Job, name: str, text: str) -> None:
    try:
        create_markdown_artifact(text, key=_key(job, name), description=job.name)
    except Exception as error:
        log.warning("the %s is not shown in Prefect: %s", name, error)


def _key(job: Job, name: str) -> str:
    """Prefect's keys are one space for all, of lower-case letters, digits and dashes."""
    return f"{job.organization}-{job.id}-{name}".lower().replace("_", "-")
