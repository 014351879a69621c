"""Jobs: asked for, submitted to Prefect, looked at, controlled, and closed."""

from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.request import NewJob
from finetune_service.jobs.service import Jobs, JobService
from finetune_service.jobs.states import Status, Verb
from finetune_service.jobs.views import JobView

__all__ = ["JobRecord", "JobService", "JobView", "Jobs", "NewJob", "Outcome", "Status", "Verb"]
