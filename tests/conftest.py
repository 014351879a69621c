"""Every test runs in an environment of its own: no server, no hub, no home of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# On matrices this small a second thread costs more than it brings, all the more on a busy
# machine. torch reads this when it is imported, which is before any fixture runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("PREFECT_API_URL", "PREFECT_PROFILE", "MLFLOW_TRACKING_URI", "FINETUNE_DEFAULTS")


def pytest_collection_modifyitems(items):
    """Files that wait for servers and trainings come first, so that short ones fill the end."""
    first = [ROOT / "tests" / name for name in ("integration", "chaos")]
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in first))


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        for name in FOREIGN:
            patch.delenv(name, raising=False)
        patch.setenv("FINETUNE_HOME", str(home / "finetune"))
        patch.setenv("PREFECT_HOME", str(home / "prefect"))
        patch.setenv("HF_HOME", str(home / "huggingface"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(ROOT)
        yield


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The model that the repo ships."""
    return ROOT / "examples" / "tiny_base"


@pytest.fixture(scope="session")
def orders() -> Path:
    """The training rows that the repo ships."""
    return ROOT / "examples" / "data" / "train.jsonl"
