"""The providers that there are, a record each."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.providers.base import FinetuningModel
from finetune_service.jobs.providers.storage import FinetuningStorage


class Provider(NamedTuple):
    """One provider.

    Attributes:
        name: What requests call it.
        description: What it is, in a line.
        model: Its FinetuningModel, as `module:name`: some take long to import.
        needs: The environment variables that it cannot do without.
    """

    name: str
    description: str
    model: str
    needs: tuple[str, ...] = ()


PROVIDERS: dict[str, Provider] = {
    each.name: each
    for each in (
        Provider(
            name="local",
            description="Jobs of this project, on this machine.",
            model="finetune_service.jobs.providers.local:LocalModel",
        ),
        Provider(
            name="openai",
            description="OpenAI, or any server that speaks its protocol: this project's API, too.",
            model="finetune_service.jobs.providers.openai:OpenaiModel",
            needs=("OPENAI_API_KEY",),
        ),
    )
}


def find_provider(name: str) -> Provider:
    """A provider by its name.

    Raises:
        InvalidValueError: There is none.
    """
    if name not in PROVIDERS:
        message = f"provider: there is no {name!r}; there are {', '.join(PROVIDERS)}"
        raise InvalidValueError(message, param="provider")
    return PROVIDERS[name]


def open_provider(storage: FinetuningStorage) -> FinetuningModel:
    """The provider that a fine-tuning names, at work on it; raises as `find_provider`."""
    module, _, name = find_provider(storage.request.provider).model.partition(":")
    model: type[FinetuningModel] = getattr(import_module(module), name)
    return model(storage)
