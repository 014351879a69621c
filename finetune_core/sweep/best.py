"""The best trial's records, found again where its job has left them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.data.sanitize import SanitizeRequest
from finetune_core.data.tokenize import TokenizeRequest
from finetune_core.exceptions import DamagedFolderError
from finetune_core.hub.card import Card
from finetune_core.jobs import organization_folder
from finetune_core.storage import finished
from finetune_core.trainers.checkpoints import finished_training
from finetune_core.types import (
    ChosenCheckpoint,
    CleanData,
    EvaluationReport,
    Job,
    StageRecord,
    TokenizedData,
)

R = TypeVar("R", bound=StageRecord)


def find_card(job: Job, config: PipelineConfig) -> Card:
    """What there is to say of a job that has succeeded.

    Args:
        job: The job, wherever it has run.
        config: Its config.

    Raises:
        DamagedFolderError: What one of its stages has made is gone.
    """
    cache = organization_folder(job.organization) / "cache"
    clean = _found(
        lambda folder: finished(folder, CleanData),
        SanitizeRequest(dataset=config.dataset, cache=cache / "data").folder,
    )
    request = TokenizeRequest.for_model(
        config.model,
        config.tokenization,
        clean=clean,
        sanitize=config.dataset.sanitize,
        cache=cache / "tokens",
    )
    return Card(
        job=job,
        config=config,
        clean=clean,
        tokens=_found(lambda folder: finished(folder, TokenizedData), request.folder),
        trained=_found(finished_training, job.folder / "checkpoints"),
        chosen=_found(lambda folder: finished(folder, ChosenCheckpoint), job.folder / "adapter"),
        report=_found(lambda folder: finished(folder, EvaluationReport), job.folder / "report"),
    )


def _found(read: Callable[[Path], R | None], folder: Path) -> R:
    record = read(folder)
    if record is None:
        raise DamagedFolderError(
            f"{folder} is gone, and the best trial cannot be judged without it",
            hint="Resume the trial's job, which makes it again, and then the sweep.",
        )
    return record
