"""FinetuningModel: what can be asked of every provider, and the records of what it answers."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.exceptions import JobInterruptedError
from finetune_core.types import Record
from finetune_service.exceptions import ConflictError
from finetune_service.jobs.states import FINAL, Status

if TYPE_CHECKING:
    from finetune_service.jobs.providers.storage import FinetuningStorage

POLL_SECONDS = 5.0
AT_REST = FINAL | {Status.PAUSED}


class FinetuningRequest(Record):
    """A fine-tuning that somebody wants. It never holds a key: those are the environment's.

    Attributes:
        provider: A name of the registry.
        organization: Whose it is: whose jobs on this machine, and whose runs in MLflow.
        config: What is learned, from what and how; `model.name` as the provider calls it.
        base_url: Where the provider is, if not where its client looks by itself.
        suffix: Becomes a part of the fine-tuned model's name.
        tokenizer: The folder of a tokenizer that counts as the model does.
        extra_body: Goes along with the request for a job, to servers that know more than OpenAI's.
    """

    provider: str
    organization: str = "local"
    config: PipelineConfig
    base_url: str | None = None
    suffix: str | None = None
    tokenizer: str | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)


class Finetuning(Record):
    """A fine-tuning, as far as is known.

    Attributes:
        status: `validating_files` until the provider has a job.
        file_id: The uploaded training file, where one is uploaded.
        job_id: The provider's job; on this machine it is written down before there is one.
        metrics: The last value of each.
        run_id: The run in MLflow that has the metrics; a job on this machine tells MLflow itself.
    """

    id: str
    provider: str
    organization: str
    base_model: str
    status: Status = Status.VALIDATING_FILES
    file_id: str | None = None
    validation_file_id: str | None = None
    job_id: str | None = None
    fine_tuned_model: str | None = None
    error: str | None = None
    trained_tokens: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    run_id: str | None = None
    created_at: int
    finished_at: int | None = None

    @property
    def at_rest(self) -> bool:
        """Whether it has ended, or waits until somebody has it go on."""
        return self.status in AT_REST


class FinetuningDataset(Record):
    """The files that a job learns from, and the config that says so."""

    train: Path
    validation: Path | None = None
    config: PipelineConfig


class FinetuningModel(ABC):
    """A provider at work on one fine-tuning.

    All that it knows is in the storage, so that any process goes on from there. Each method may be
    asked again, also by another process after a kill: nothing is made twice.

    Args:
        storage: The fine-tuning's folder.
    """

    @abstractmethod
    def __init__(self, storage: FinetuningStorage) -> None: ...

    @abstractmethod
    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """The tokens of a conversation, as the base model counts them.

        Args:
            messages: The turns, each with its `role` and `content`.
        """

    @abstractmethod
    def create_finetuning_dataset(self) -> FinetuningDataset:
        """Builds the files to learn from, unless they are there already."""

    @abstractmethod
    def create_fine_tuning_job(self) -> Finetuning:
        """Has the provider begin, with the dataset built where it is not; does not wait."""

    @abstractmethod
    def retrieve_finetuning_job(self) -> Finetuning:
        """How it is now."""

    @abstractmethod
    def cancel_finetuning_job(self) -> Finetuning:
        """Ends it; one that is cancelled already stays so.

        Raises:
            ConflictError: It has ended otherwise.
        """


def follow(
    model: FinetuningModel,
    on_change: Callable[[Finetuning], None] = lambda _: None,
    poll_seconds: float = POLL_SECONDS,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Finetuning:
    """Waits until a fine-tuning has ended or is paused.

    Args:
        model: Knows it.
        on_change: Is told of it at first, and whenever something of it has changed.
        poll_seconds: How often to look, give or take a quarter, so that many do not look at once.
        sleep: Waits.

    Raises:
        ConflictError: It has no job yet.
        JobInterruptedError: Ctrl-C; the job goes on.
    """
    seen: Finetuning | None = None
    try:
        while True:
            found = model.retrieve_finetuning_job()
            if found != seen:
                seen = found
                on_change(found)
            if found.at_rest:
                return found
            if found.job_id is None:
                raise ConflictError(f"{found.id} has no job yet", hint="Create it first.")
            sleep(poll_seconds * random.uniform(0.75, 1.25))  # noqa: S311
    except KeyboardInterrupt:
        name = seen.id if seen else "the fine-tuning"
        raise JobInterruptedError(
            f"{name} is no longer followed; its job goes on",
            hint="Follow it again by its id, or cancel it.",
        ) from None
