"""BaseModels: the models that jobs may begin from."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import finetune_core
from finetune_core.exceptions import Fault, InvalidConfigError
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.record import MODEL_PREFIX

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
# Where a worker starts its jobs, and a name could be taken for a folder.
SOURCE = Path(finetune_core.__file__).parents[1]


class BaseModels:
    """The operator's list of base models, and the hub's.

    Args:
        file: YAML, a folder for each name; it is read again when it is asked, so that a model can
            be added while the API runs.
        hub: Whether a hub's models may be used too.
    """

    def __init__(self, file: Path | None, *, hub: bool = True) -> None:
        self._file = file
        self._hub = hub

    def listed(self) -> dict[str, Path]:
        """The operator's models: a folder for each name.

        Raises:
            InvalidConfigError: The file is not such a list.
        """
        if self._file is None:
            return {}
        try:
            found = yaml.safe_load(self._file.read_text()) or {}
            return {str(name): Path(folder) for name, folder in found.items()}
        except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
            problem = f"must hold `name: folder` in each line ({error})"
            raise InvalidConfigError([Fault("FINETUNE_BASE_MODELS", problem)]) from None

    def created(self) -> int:
        """When the list was last changed."""
        return int(self._file.stat().st_mtime) if self._file else 0

    def find(self, name: str) -> str:
        """What a config calls a model that a request has named.

        Raises:
            InvalidValueError: It is neither on the list nor the id of a model on the hub.
        """
        listed = self.listed()
        if name in listed:
            return str(listed[name])
        if name.startswith(MODEL_PREFIX):
            problem = "a model that was fine-tuned here is no base for another job yet"
        elif not HUB_ID.fullmatch(name) or ".." in name or (SOURCE / name).exists():
            problem = "neither a name that the operator has listed nor the id of a hub's model"
        elif not self._hub:
            problem = "not a name that the operator has listed"
        else:
            return name
        known = f"Listed are: {', '.join(sorted(listed))}." if listed else None
        raise InvalidValueError(f"model: {name!r} is {problem}.", param="model", hint=known)
