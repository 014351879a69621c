"""Reproduction: a version beside the one that was made again from its card."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import numpy as np

from finetune_core.hub.card import code_version
from finetune_core.hub.lineage import Lineage, is_weights
from finetune_core.storage import digest_file
from finetune_core.types import Record

# Sums in another order, as on a GPU, differ in their last bits, and training multiplies that. Two
# adapters that were trained alike are as near as this, in the 2-norm of their difference.
TOLERANCE = 0.05
OTHERS = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers")


class Reproduction(Record):
    """The weights that are registered, and those that the same card has made now.

    Attributes:
        identical: Whether every byte of the weights is the same.
        registered: The sha256 of each file of weights.
        reproduced: As `registered`.
        relative_difference: The 2-norm of their difference, by that of the registered ones; none
            where they cannot be compared.
        within_tolerance: Whether it is at most `tolerance`.
        differences: What is not as it was when the version was made: code, packages, processor.
    """

    ref: str
    job_id: str
    identical: bool
    registered: dict[str, str]
    reproduced: dict[str, str]
    relative_difference: float | None
    tolerance: float = TOLERANCE
    within_tolerance: bool
    differences: list[str]


def compare(ref: str, job_id: str, card: Lineage, registered: Path, made: Path) -> Reproduction:
    """Compares two folders of weights.

    Args:
        ref: What was made again.
        job_id: The job that did.
        card: Its card.
        registered: The registered version's files.
        made: The files of the job.
    """
    found = {
        path.name: digest_file(path) for path in sorted(made.iterdir()) if is_weights(path.name)
    }
    identical = found == card.weights
    difference = 0.0 if identical else _difference(registered, made, sorted(card.weights))
    return Reproduction(
        ref=ref,
        job_id=job_id,
        identical=identical,
        registered=card.weights,
        reproduced=found,
        relative_difference=difference,
        within_tolerance=difference is not None and difference <= TOLERANCE,
        differences=_differences(card),
    )


def _difference(registered: Path, made: Path, names: list[str]) -> float | None:
    """How far apart the weights are; none where they have not the same names, shapes or types."""
    from safetensors.numpy import load_file

    apart = size = 0.0
    try:
        for name in names:
            before, after = load_file(registered / name), load_file(made / name)
            if before.keys() != after.keys():
                return None
            for key, tensor in before.items():
                old, new = tensor.astype(np.float64), after[key].astype(np.float64)
                if old.shape != new.shape:
                    return None
                apart += float(np.square(old - new).sum())
                size += float(np.square(old).sum())
    except (OSError, TypeError, ValueError):  # NumPy knows no bfloat16
        return None
    return float(np.sqrt(apart / size)) if size else None


def _differences(card: Lineage) -> list[str]:
    """In what this machine and this code are not those that made the version."""
    made_on = card.environment
    packages = {each: made_on.packages.get(each, "none") for each in OTHERS}
    pairs = {
        "code": (card.code_version, code_version()),
        "python": (made_on.python, platform.python_version()),
        **{name: (version, _version(name)) for name, version in packages.items()},
    }
    return [f"{name} {was} → {now}" for name, (was, now) in pairs.items() if was != now]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
