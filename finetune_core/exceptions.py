"""The errors of finetune_core.

    FineTuneError                     exit code 1
    ├── InputError                    exit code 2: the input is wrong, a retry cannot help
    │   ├── ConfigError               carries every fault, each with its field path
    │   │   ├── InvalidConfigError
    │   │   ├── MissingConfigError
    │   │   └── IncompatibleConfigError
    │   ├── DatasetError
    │   │   ├── DatasetNotFoundError
    │   │   ├── EmptyDatasetError
    │   │   ├── DatasetFormatError
    │   │   └── NoTextColumnsError
    │   ├── ModelNotFoundError
    │   ├── TemplateError
    │   ├── TargetModulesError
    │   ├── AdapterError
    │   ├── JobNotFoundError
    │   ├── IncompatibleCheckpointError
    │   ├── NoPreviousError
    │   ├── IrreproducibleError
    │   ├── NothingToRetrainError
    │   ├── UploadError
    │   ├── ExportError
    │   └── OutputError
    ├── JobInterruptedError           exit code 130
    │   ├── JobHandedBackError
    │   ├── JobPausedError
    │   │   └── DiskFullError
    │   └── JobSupersededError
    ├── JobInUseError
    ├── ModelLoadError
    ├── ParityError
    ├── TrainingError
    │   ├── OutOfMemoryError
    │   └── DivergedError
    ├── EvaluationError
    ├── DatabaseError
    ├── ChildDiedError
    │   └── ChildSilentError
    ├── DamagedFolderError
    ├── UnverifiedError
    └── HubError
        ├── HubUnavailableError
        └── VersionNotFoundError

Every error pickles, and travels as a plain dictionary from a child process to its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class FineTuneError(Exception):
    """A failure that a person can read.

    Args:
        message: What was wrong, with the value, the row or the field.
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> Any:
        return error_from_dict, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain values, from which `error_from_dict` makes it again."""
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint}


class InputError(FineTuneError):
    """The input is wrong: the same input fails again."""

    exit_code = 2


class Fault(NamedTuple):
    """One fault of a config: the field's path, and what is wrong with its value."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class ConfigError(InputError):
    """A config with faults, all of which are listed.

    Args:
        faults: The faults, in the order of the config's fields.
        source: The file that the config came from.
    """

    title = "Invalid config"

    def __init__(self, faults: Sequence[Fault], *, source: str | None = None) -> None:
        self.faults = tuple(Fault(*fault) for fault in faults)
        self.source = source
        count = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        head = f"{self.title}{f' in {source}' if source else ''}: {count}"
        super().__init__("\n".join([head, *(f"  {fault}" for fault in self.faults)]))

    def to_dict(self) -> dict[str, Any]:
        """The faults as plain values."""
        return {
            "error": type(self).__name__,
            "faults": [list(fault) for fault in self.faults],
            "source": self.source,
        }


class InvalidConfigError(ConfigError):
    """A field's value is out of its range or of the wrong kind, or its name is unknown."""


class MissingConfigError(ConfigError):
    """A required field is absent."""

    title = "Incomplete config"


class IncompatibleConfigError(ConfigError):
    """Each field is right by itself, but they exclude each other."""

    title = "Contradictory config"


class DatasetError(InputError):
    """A dataset cannot be used."""


class DatasetNotFoundError(DatasetError):
    """The path leads to no dataset."""


class EmptyDatasetError(DatasetError):
    """The dataset has no usable row."""


class DatasetFormatError(DatasetError):
    """The file, or one of its rows, cannot be read as what it claims to be."""


class NoTextColumnsError(DatasetError):
    """The columns that hold the text are not there."""


class ModelNotFoundError(InputError):
    """The name leads to no model."""


class TemplateError(InputError):
    """A chat template from which the trained tokens cannot be told."""


class TargetModulesError(InputError):
    """An adapter names modules that the model does not have."""


class AdapterError(InputError):
    """A folder holds no adapter, or one that cannot become part of that base."""


class JobNotFoundError(InputError):
    """There is no job of that id."""


class IncompatibleCheckpointError(InputError):
    """A training is to go on from a checkpoint that comes of other data or settings."""


class OutputError(InputError):
    """The output folder cannot be written."""


class JobInterruptedError(FineTuneError):
    """Somebody stopped the job; what it has done is kept."""

    exit_code = 130


class JobPausedError(JobInterruptedError):
    """The job was asked to pause, and can go on from where it is."""


class DiskFullError(JobPausedError):
    """The disk has no room for what the job has to write; with room, it can go on."""


class JobHandedBackError(JobInterruptedError):
    """The job's worker is being stopped; the job goes on, on that or on another one."""


class JobSupersededError(JobInterruptedError):
    """The job was taken for dead, and another process goes on with it: this one may not write."""


class JobInUseError(FineTuneError):
    """Another process works on the job."""


class ModelLoadError(FineTuneError):
    """A model is there but does not load."""


class ParityError(FineTuneError):
    """A merged model does not answer as base and adapter do."""


class TrainingError(FineTuneError):
    """The training loop failed."""


class OutOfMemoryError(TrainingError):
    """A step needs more memory than the device has."""


class DivergedError(TrainingError):
    """The loss, the gradients or the weights are not finite numbers any more."""


class EvaluationError(FineTuneError):
    """The evaluation failed."""


class ChildDiedError(FineTuneError):
    """A child process ended without a result: killed, crashed or out of memory."""


class ChildSilentError(ChildDiedError):
    """A child process had said nothing for so long that it was ended."""


class DamagedFolderError(FineTuneError):
    """A folder does not hold what its manifest says."""


class HubError(FineTuneError):
    """The hub refused, or answered nonsense."""


class DatabaseError(FineTuneError):
    """A database cannot be opened or read."""


class HubUnavailableError(HubError):
    """The hub does not answer."""


class VersionNotFoundError(HubError):
    """The hub has no such model or version."""


class NoPreviousError(InputError):
    """A model had no champion before the one that it has."""


class IrreproducibleError(InputError):
    """What a version was made of is not here, or not as it was."""


class NothingToRetrainError(InputError):
    """No registered version says how to train it anew."""


class UnverifiedError(FineTuneError):
    """A version is not what its card says."""


class UploadError(InputError):
    """A model cannot be uploaded as it is, or its repository may not be written."""


class ExportError(InputError):
    """A model is none that the asked format can hold."""


def error_from_dict(fields: Mapping[str, Any]) -> FineTuneError:
    """Makes the error that `FineTuneError.to_dict` wrote."""
    kind = _classes(FineTuneError)[fields["error"]]
    if issubclass(kind, ConfigError):
        return kind([Fault(*fault) for fault in fields["faults"]], source=fields["source"])
    return kind(fields["message"], hint=fields["hint"])


def _classes(root: type[FineTuneError]) -> dict[str, type[FineTuneError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found
