"""A job's events: what happened to it, for people, kept in its folder for good.

Each is `{time, level: info|warn|error, type: message|metrics, name, message, data}`.
"""

from __future__ import annotations

from typing import Any

from finetune_core.child import Event, EventFile
from finetune_core.types import CleanData, Job, StageRecord, TokenizedData, Verdict

METRICS = ("step", "validation")
CUT = ("too_long",)  # a rule that drops a row, or where it is told so, makes it shorter


class JobEvents:
    """The events of one job; any process may add to them."""

    def __init__(self, job: Job) -> None:
        self._file = EventFile(job.events)

    def say(self, name: str, message: str, *, level: str = "info", **data: Any) -> None:
        """Adds an event."""
        kind = "metrics" if name in METRICS else "message"
        event = {"level": level, "type": kind, "name": name, "message": message, "data": data}
        self._file.append(event)

    def warn(self, name: str, message: str, **data: Any) -> None:
        """Adds a warning, unless it is there already: a job that goes on warns of nothing twice."""
        if not self._said(name, message):
            self.say(name, message, level="warn", **data)

    def started(self) -> None:
        """Says that a process works on the job, for the first time or again."""
        if self._said("began"):
            self.say("resumed", "The job goes on.")
        else:
            self.say("began", "The job has begun.")

    def stage_ended(self, verb: str, record: StageRecord, summary: str) -> None:
        """Says what came of a stage, and warns of what the data lost in it."""
        facts = record.model_dump(mode="json", exclude={"folder", "gate"})
        self.say("stage_ended", f"{verb}: {summary}", stage=verb, **facts)
        if isinstance(record, CleanData):
            for warning in record.warnings:
                self.warn("data", warning)
        if isinstance(record, TokenizedData):  # its counts hold those of sanitizing too
            for rule, rows in record.dropped_by_rule.items():
                self.warn("rows_dropped", f"{rows:,} rows dropped by {rule}", rule=rule, rows=rows)
            for rule in CUT:
                if rows := record.changed_by_rule.get(rule, 0):
                    self.warn("rows_cut", f"{rows:,} rows cut by {rule}", rule=rule, rows=rows)

    def judged(self, verdict: Verdict, ref: str) -> None:
        """Says which way the gate went for a version."""
        way = "has passed" if verdict.passed else "has not passed"
        self.say("gate", f"{ref} {way} the gate", **verdict.model_dump(mode="json"))

    def hear(self, event: Event) -> None:
        """Adds what a stage's child process says, where it is of interest for the job."""
        kind = event["type"]
        data = {name: value for name, value in event.items() if name not in ("type", "time")}
        if kind == "step":
            of = f"step {event['step']}/{event['total_steps']}"
            self.say("step", f"{of}: train_loss {event['train_loss']:.4f}", **data)
        elif kind == "validation":
            loss = f"valid_loss {event['valid_loss']:.4f}"
            self.say(kind, f"step {event['step']}: {loss}", **data)
        elif kind == "checkpoint":
            step = event["step"]
            self.say(kind, f"checkpoint saved at step {step}", step=step)
        elif kind == "set_aside":
            what = f"the checkpoint of step {event['step']} is damaged and set aside"
            self.say(kind, f"{what}: {event['problem']}", level="warn", **data)
        elif kind == "eased":
            self.say(kind, f"{event['cause']}: {event['action']}", level="warn", **data)

    def _said(self, name: str, message: str | None = None) -> bool:
        return any(
            event.get("name") == name and message in (None, event.get("message"))
            for event, _ in self._file.read()
        )
