"""The checkpoints of a training: whole folders, one a step, with what was measured there."""

from __future__ import annotations

import json
import logging
import math
import shutil
import uuid
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from finetune_core.child import Emit
from finetune_core.exceptions import DamagedFolderError, TrainingError
from finetune_core.storage import (
    MANIFEST,
    RECORD,
    digest_folder,
    finished,
    is_whole,
    once,
    publish,
    read_manifest,
    read_record,
    verify,
    write_json,
)
from finetune_core.types import ChosenCheckpoint, TrainedCheckpoints

STAGING = ".saving"
ASIDE = ".damaged"

# What only a resumed training needs; README.md is peft's empty form, the hub writes a real card.
TRAINING_ONLY = (
    MANIFEST,
    RECORD,
    "README.md",
    "optimizer.pt",
    "optimizer.bin",
    "pytorch_model_fsdp.bin",
    "rng_state*.pth",
    "scaler.pt",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
)

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A whole checkpoint; `origin` is what its training comes of."""

    folder: Path
    step: int
    epoch: float
    valid_loss: float | None
    origin: dict[str, Any]


class Checkpoints:
    """The folder that holds a training's checkpoints.

    Args:
        folder: One folder a step lies in it, and a place where the next one is written.
        origin: What those that are published come of, as `finetune_core.trainers.origin` tells it.
        emit: Hears of damaged ones.
    """

    def __init__(
        self, folder: Path, origin: Mapping[str, Any] | None = None, emit: Emit | None = None
    ) -> None:
        self.folder = folder
        self._emit = emit
        self.origin = dict(origin or {})
        self.staging = folder / STAGING

    def clear_staging(self) -> None:
        """Removes what a killed training left half-written."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True, exist_ok=True)

    def publish(self, written: Path, *, step: int, epoch: float, valid_loss: float | None) -> Path:
        """Makes a checkpoint of a written folder.

        Args:
            written: The folder, under `staging`.
            step: The optimizer steps done.
            epoch: The passes over the rows done.
            valid_loss: What a validation at this very step measured.
        """
        final = self.folder / f"step-{step:08d}"
        if final.exists():  # a training that began again from an earlier step comes by once more
            final.rename(self.staging / final.name)
        facts = {"step": step, "epoch": epoch, "valid_loss": valid_loss, "origin": self.origin}
        publish(written, final, **facts)
        return final

    def all(self) -> list[Checkpoint]:
        """The whole checkpoints, by step."""
        found = []
        for folder in sorted(self.folder.glob("step-*")):
            if is_whole(folder):
                facts = read_manifest(folder)
                found.append(Checkpoint(folder, *(facts[name] for name in Checkpoint._fields[1:])))
        return found

    def newest(self) -> Checkpoint | None:
        """The last checkpoint whose every byte is as it was written."""
        return next(filter(self._is_as_written, reversed(self.all())), None)

    def best(self) -> Checkpoint | None:
        """The checkpoint of the lowest validation loss; of equals the first."""
        return next(iter(self._by_loss()), None)

    def best_as_written(self) -> Checkpoint | None:
        """As `best`, of those whose every byte is as it was written."""
        return next(filter(self._is_as_written, self._by_loss()), None)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep`; the best stays besides."""
        best = self.best()
        for checkpoint in self.all()[:-keep]:
            if best is None or checkpoint.folder != best.folder:
                shutil.rmtree(checkpoint.folder)

    def _by_loss(self) -> list[Checkpoint]:
        measured = [
            each
            for each in self.all()
            if each.valid_loss is not None and not math.isnan(each.valid_loss)
        ]
        return sorted(measured, key=lambda each: each.valid_loss or 0.0)

    def _is_as_written(self, checkpoint: Checkpoint) -> bool:
        """Verifies a checkpoint; a damaged one is set aside, where nothing takes it for good."""
        try:
            verify(checkpoint.folder)
        except DamagedFolderError as error:
            log.warning("a damaged checkpoint is set aside: %s", error)
            aside = self.folder / ASIDE
            aside.mkdir(exist_ok=True)
            checkpoint.folder.rename(aside / f"{checkpoint.folder.name}-{uuid.uuid4().hex[:8]}")
            if self._emit:
                problem = f"{error}; the one before is taken"
                self._emit({"type": "set_aside", "step": checkpoint.step, "problem": problem})
            return False
        return True


def finished_training(folder: Path) -> TrainedCheckpoints | None:
    """The record of a training that went to its end, or nothing: it is written last."""
    if not (folder / RECORD).is_file():
        return None
    return read_record(folder, TrainedCheckpoints).model_copy(update={"cached": True})


def choose(
    trained: TrainedCheckpoints, folder: Path, *, validated: bool = True
) -> ChosenCheckpoint:
    """Takes the best checkpoint by validation loss, and of it what inference needs.

    Args:
        trained: The finished training.
        folder: Gets the adapter, or the whole model, with its tokenizer.
        validated: Whether rows were held out; without them, the last checkpoint is taken.

    Raises:
        TrainingError: There is no checkpoint whose bytes are as they were written.
    """
    if chosen := finished(folder, ChosenCheckpoint):
        return chosen  # its checkpoint may be gone
    checkpoints = Checkpoints(trained.folder)
    best = checkpoints.best_as_written() if validated else checkpoints.newest()
    if best is None:
        what = "whole checkpoint with a validation loss" if validated else "whole checkpoint"
        raise TrainingError(f"{trained.folder} holds no {what}")

    def build(temporary: Path) -> ChosenCheckpoint:
        for file in best.folder.iterdir():
            if not any(fnmatch(file.name, pattern) for pattern in TRAINING_ONLY):
                shutil.copy2(file, temporary)
        config = temporary / "config.json"  # of a whole model, for which training has no cache
        if config.is_file():
            write_json(config, {**json.loads(config.read_text()), "use_cache": True})
        return ChosenCheckpoint(
            folder=temporary,
            digest=digest_folder(temporary),
            step=best.step,
            valid_loss=best.valid_loss,
            reason="lowest validation loss" if validated else "the last, as no row was held out",
        )

    return once(folder, ChosenCheckpoint, build)
