"""A training that takes seconds, as the SDK is asked for one."""

from __future__ import annotations

import os
import sys
from typing import Any

import psutil

# 64 rows, 3 steps an epoch, each of them told.
CONFIG = {
    "dataset": {"max_samples": 64},
    "training": {"logging_steps": 1},
    "evaluation": {"num_samples": 8, "generation_max_length": 8},
}
HYPERPARAMETERS = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 16}
LIBRARIES = ("torch", "transformers", "prefect", "mlflow", "fastapi", "datasets")


def asked(**changes: Any) -> dict[str, Any]:
    """The arguments of a FineTuningJob."""
    usual = {
        "model": "examples/tiny_base",
        "dataset": "examples/data/train.jsonl",
        "hyperparameters": HYPERPARAMETERS,
        "suffix": "orders",
        "config": CONFIG,
    }
    return {**usual, **changes}


def alive_in(group: int) -> bool:
    """Whether a process of a group is left; one that nobody has reaped yet is not."""
    return any(_runs_in(group, process) for process in psutil.process_iter())


def _runs_in(group: int, process: psutil.Process) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False


if __name__ == "__main__":
    import finetune_service.sdk  # noqa: F401

    sys.stdout.write(",".join(name for name in LIBRARIES if name in sys.modules))
