"""Where a dataset's rows are: files of this machine, or those fetched from a hub."""

from __future__ import annotations

from pathlib import Path

from finetune_core.config.sections import DatasetConfig
from finetune_core.data.hub_dataset import fetch
from finetune_core.data.loading import find_files
from finetune_core.types import DatasetSource

TRAINING, VALIDATION, EVALUATION = "training", "validation", "evaluation"


def find_sources(config: DatasetConfig) -> dict[str, list[Path]]:
    """The files of each source of rows, the held-out ones first.

    Training rows are compared with them.

    Raises:
        DatasetError: Some are not there.
    """
    sources = {}
    for name in (EVALUATION, VALIDATION):
        if path := getattr(config, f"{name}_path"):
            sources[name] = find_files(Path(path))
        elif split := getattr(config, f"{name}_split"):
            sources[name] = _fetch(config, split)
    if config.source is DatasetSource.HUB:
        return {**sources, TRAINING: _fetch(config, config.split)}
    return {**sources, TRAINING: find_files(Path(config.path))}


def _fetch(config: DatasetConfig, split: str) -> list[Path]:
    return fetch(config.path, subset=config.subset, split=split, revision=config.revision)
