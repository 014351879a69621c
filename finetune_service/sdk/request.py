"""JobRequest: what is asked of a new job, before anybody knows where it will run."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from finetune_core.types import Record

# As people say it, and the command line with them.
SAID = {"epochs": "n_epochs"}


class JobRequest(Record):
    """A job that somebody wants.

    Attributes:
        model: A name that the API lists, an id on the hub, or on this machine a folder.
        dataset: The training file's path.
        validation: The path of a file of held-out rows.
        priority: high, normal or low; on this machine nothing waits.
        hyperparameters: `n_epochs` or `epochs`, `batch_size`, `learning_rate`, `lora_rank` ...
        config: Sections of PipelineConfig, for all else.
    """

    model: str
    dataset: str
    validation: str | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    method: str | None = None
    suffix: str | None = None
    seed: int | None = None
    priority: str | None = None
    metadata: dict[str, str] | None = None
    config: dict[str, dict[str, Any]] | None = None

    def body(self, training_file: str, validation_file: str | None) -> dict[str, Any]:
        """The request that the API knows.

        Args:
            training_file: The name that the training file has there.
            validation_file: The name of the other one.
        """
        given = {name: value for name, value in self.hyperparameters.items() if value is not None}
        body = {
            "model": self.model,
            "training_file": training_file,
            "validation_file": validation_file,
            "hyperparameters": {SAID.get(name, name): value for name, value in given.items()},
            "method": self.method,
            "suffix": self.suffix,
            "seed": self.seed,
            "priority": self.priority,
            "metadata": self.metadata,
            "config": self.config,
        }
        return {name: value for name, value in body.items() if value not in (None, {})}
