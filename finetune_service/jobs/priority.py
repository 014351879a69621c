"""Priority: which of the jobs that wait begins first, as a queue of the work pool for each."""

from __future__ import annotations

from enum import Enum


class Priority(str, Enum):
    """How urgent a job is, the most urgent first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def queue(self) -> str:
        """The work queue of the pool; what says nothing of its priority is in Prefect's own."""
        return "default" if self is Priority.NORMAL else self.value
