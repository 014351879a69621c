"""Providers: where a model can be fine-tuned. All are asked alike, and go on after a kill."""

from finetune_service.jobs.providers.base import (
    Finetuning,
    FinetuningDataset,
    FinetuningModel,
    FinetuningRequest,
    follow,
)
from finetune_service.jobs.providers.registry import (
    PROVIDERS,
    Provider,
    find_provider,
    open_provider,
)
from finetune_service.jobs.providers.storage import FinetuningStorage

__all__ = [
    "PROVIDERS",
    "Finetuning",
    "FinetuningDataset",
    "FinetuningModel",
    "FinetuningRequest",
    "FinetuningStorage",
    "Provider",
    "find_provider",
    "follow",
    "open_provider",
]
