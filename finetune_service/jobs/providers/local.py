"""LocalModel: jobs of this project, on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from finetune_core import child
from finetune_core.config.sections import rows_a_step
from finetune_core.exceptions import Fault, IncompatibleConfigError
from finetune_core.jobs import model_name
from finetune_core.models.source import find_model
from finetune_core.models.tasks import find_tokenization
from finetune_core.types import new_job_id
from finetune_service.exceptions import NotFoundError
from finetune_service.jobs.providers import tokens
from finetune_service.jobs.providers.base import Finetuning, FinetuningDataset, FinetuningModel
from finetune_service.jobs.providers.storage import (
    FinetuningStorage,
    is_text_to_sql,
    plain_dataset,
)
from finetune_service.jobs.record import JobRecord, slug
from finetune_service.jobs.states import FINAL, WAITING, Status, Verb, check
from finetune_service.sdk.backend import latest_metrics
from finetune_service.sdk.local import LocalBackend
from finetune_service.sdk.records import JobInfo

BUILD = "finetune_core.text_to_sql.dataset:build"


class LocalModel(FinetuningModel):
    """A fine-tuning whose job is a process of its own here.

    Args:
        storage: The fine-tuning's folder.
    """

    def __init__(self, storage: FinetuningStorage) -> None:
        self._storage = storage

    def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """By the base model's own tokenizer, in the template that its job will use.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelLoadError: Its tokenizer does not load.
            TemplateError: Its template refuses the messages.
        """
        config = self._storage.request.config
        return tokens.by_template(find_model(config.model), config.tokenization, messages)

    def create_finetuning_dataset(self) -> FinetuningDataset:
        """Builds the files of questions and SQL, in a process of its own.

        What is no text to SQL is taken as it is.
        """
        config = self._storage.request.config
        if not is_text_to_sql(config):
            return plain_dataset(config)
        from finetune_core.text_to_sql.dataset import BuildRequest, SqlDataset

        built = child.run(
            BUILD,
            BuildRequest(config=config, output=self._storage.dataset),
            SqlDataset,
            folder=self._storage.logs,
        )
        return FinetuningDataset(
            train=built.train, validation=built.validation, config=built.config(config)
        )

    def create_fine_tuning_job(self) -> Finetuning:
        """Starts the job's process, which outlives this one.

        Raises:
            IncompatibleConfigError: The config says where the job's folder is to lie.
            ModelNotFoundError: There is no such model.
            FineTuneError: What building the dataset stumbles over.
        """
        storage = self._storage
        with storage.locked():
            known = self._learn(storage.read())
            # One that is queued may have a folder and no process yet.
            if known.status not in WAITING:
                return known
            config = storage.request.config
            if config.training.output_dir is not None:
                problem = "cannot be set: jobs of the service lie in FINETUNE_HOME"
                raise IncompatibleConfigError([Fault("training.output_dir", problem)])
            find_tokenization(config.tokenization, config.model)
            config = self.create_finetuning_dataset().config
            # The id first: who goes on after a kill starts this job, and no second one.
            known = storage.change(job_id=known.job_id or new_job_id())
            given, training = storage.request, config.training
            name = given.config.registry.model_name or slug(given.suffix or "")
            registry = {"model_name": name or model_name(config)}
            config = config.model_copy(
                update={"registry": config.registry.model_copy(update=registry)}
            )
            self._backend().launch(
                JobRecord(
                    id=str(known.job_id),
                    name=model_name(config),
                    organization=known.organization,
                    created_at=int(time.time()),
                    model=known.base_model,
                    training_file=config.dataset.path,
                    validation_file=config.dataset.validation_path,
                    hyperparameters={
                        "n_epochs": training.epochs,
                        "batch_size": rows_a_step(training),
                    },
                    suffix=given.suffix,
                    seed=training.seed,
                    metadata={"finetuning": known.id},
                ),
                config,
            )
            return self._learn(known)

    def retrieve_finetuning_job(self) -> Finetuning:
        """How it is now."""
        return self._learn(self._storage.read())

    def cancel_finetuning_job(self) -> Finetuning:
        """Ends the job's process.

        Raises:
            ConflictError: It has ended otherwise.
        """
        storage = self._storage
        with storage.locked():
            known = storage.read()
            if known.status in FINAL:
                check(Verb.CANCEL, known.status, known.id)
                return known
            if self._info(known) is None:
                return storage.change(status=Status.CANCELLED, finished_at=int(time.time()))
            self._backend().ask(Verb.CANCEL, str(known.job_id))
            return self._learn(known)

    def _backend(self) -> LocalBackend:
        return LocalBackend(self._storage.request.organization)

    def _info(self, known: Finetuning) -> JobInfo | None:
        """The job; none where it was not started, only its id written down."""
        if known.job_id is None:
            return None
        try:
            return self._backend().get(known.job_id)
        except NotFoundError:
            return None

    def _learn(self, known: Finetuning) -> Finetuning:
        """Writes down what the job's folder says."""
        info = self._info(known)
        if info is None:
            return known
        return self._storage.change(
            status=info.status,
            fine_tuned_model=info.fine_tuned_model,
            trained_tokens=info.trained_tokens,
            error=info.error,
            metrics=self._metrics(info.id),
            finished_at=int(info.finished_at.timestamp()) if info.finished_at else None,
        )

    def _metrics(self, job_id: str) -> dict[str, float]:
        """The last values of the training; once there are some, those of the evaluation too."""
        found = latest_metrics(self._backend(), job_id)
        tuned = found.pop("evaluation", {}).get("tuned", {})
        values = {**found, **{f"evaluation_{name}": value for name, value in tuned.items()}}
        return {
            name: float(value) for name, value in values.items() if isinstance(value, int | float)
        }
