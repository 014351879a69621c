"""Importing is cheap: what is heavy is loaded by whoever runs it."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import tasks

HEAVY = ("torch", "transformers", "peft", "datasets")
TASKS = [f"tasks.{module.name}" for module in pkgutil.iter_modules(tasks.__path__)]


def loaded_by(modules):
    code = f"import sys, json, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    return set(json.loads(output))


def test_the_library_loads_neither_torch_nor_an_orchestrator_nor_a_tracker():
    assert not loaded_by(["finetune_core"]) & {*HEAVY, "prefect", "mlflow", "fastapi"}


@pytest.mark.parametrize(
    "modules",
    [
        [
            "finetune_core.trainers.request",
            "finetune_core.trainers.checkpoints",
            "finetune_core.evaluation.request",
            "finetune_core.config",
            "finetune_core.jobs",
        ],
        TASKS,
    ],
    ids=["what is asked", "tasks"],
)
def test_the_parent_of_a_stage_loads_no_torch(modules):
    loaded = loaded_by(modules)
    assert set(modules) <= loaded
    assert not loaded & set(HEAVY)
