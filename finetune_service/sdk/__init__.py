"""Fine-tuning from Python: `FineTuningJob` here or over the API, and `Client` for the API alone."""

from finetune_service.sdk.client import Client
from finetune_service.sdk.exceptions import ApiError, ApiKeyError, JobNotStartedError
from finetune_service.sdk.job import FineTuningJob
from finetune_service.sdk.records import FileInfo, JobEvent, JobInfo, JobStatus, ModelInfo

__all__ = [
    "ApiError",
    "ApiKeyError",
    "Client",
    "FileInfo",
    "FineTuningJob",
    "JobEvent",
    "JobInfo",
    "JobNotStartedError",
    "JobStatus",
    "ModelInfo",
]
