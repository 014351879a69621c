"""ApiBackend: jobs that run where the API says."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_service.exceptions import ConflictError
from finetune_service.jobs.states import Verb
from finetune_service.sdk.client import Client
from finetune_service.sdk.records import JobEvent, JobInfo
from finetune_service.sdk.request import JobRequest


class ApiBackend:
    """The jobs of the organisation whose key the client has."""

    poll_seconds = 1.0

    def __init__(self, client: Client) -> None:
        self.client = client

    def create(self, wanted: JobRequest) -> JobInfo:
        """Uploads what the job learns from, and creates it."""
        training = self.client.files.upload(wanted.dataset)
        validation = self.client.files.upload(wanted.validation) if wanted.validation else None
        return self.client.jobs.create(
            wanted.body(training.id, validation.id if validation else None)
        )

    def list(self, limit: int) -> list[JobInfo]:
        """The newest jobs first."""
        return list(self.client.jobs.list(limit))

    def get(self, name: str) -> JobInfo:
        """A job as it is now."""
        return self.client.jobs.get(name)

    def ask(self, verb: Verb, name: str) -> JobInfo:
        """Cancels, pauses, resumes a job, or has it save a checkpoint."""
        return self.client.jobs.ask(verb, name)

    def events(self, name: str) -> Iterator[JobEvent]:
        """A job's events, the newest first."""
        return self.client.jobs.events(name)

    def model(self, name: str) -> str:
        """The id of the model that a job has made.

        Raises:
            ConflictError: It has made none.
        """
        found = self.client.jobs.get(name)
        if found.fine_tuned_model is None:
            raise ConflictError(f"{found.id} is {found.status.value}, so it has no model.")
        return found.fine_tuned_model

    def logs(self, name: str) -> Iterator[str]:
        """The last lines of what a job's processes have written."""
        yield from self.client.jobs.logs(name).splitlines()
