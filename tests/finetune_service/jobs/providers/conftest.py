"""A server that speaks OpenAI's protocol, and fine-tunings to be worked on."""

from __future__ import annotations

import json

import pytest

from finetune_core.config import PipelineConfig
from finetune_service.jobs.providers import FinetuningRequest, FinetuningStorage
from tests.conftest import ROOT
from tests.finetune_service.jobs.providers.openai_server import OpenaiServer

SECRET = "sk-very-secret-0123456789"
JOBS, FILES = "/v1/fine_tuning/jobs", "/v1/files"
MESSAGES = [
    {"role": "system", "content": "You write SQL."},
    {"role": "user", "content": "How many orders are there?"},
    {"role": "assistant", "content": "SELECT count(*) FROM orders"},
]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINETUNE_PROVIDER_RATE_LIMIT", "100000/minute")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_BASE_URL", "FINETUNE_API_URL", "FINETUNE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with OpenaiServer().serving() as found:
        yield found


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text((json.dumps({"messages": MESSAGES}) + "\n") * 12)
    return file


@pytest.fixture
def make(tmp_path, rows, server):
    """Makes a fine-tuning's storage."""

    def _make(provider="openai", config=None, **fields) -> FinetuningStorage:
        base = str(ROOT / "examples/tiny_base") if provider == "local" else "gpt-4o-mini"
        values = {
            "model": {"name": base},
            "dataset": {"path": str(rows)},
            "training": {"epochs": 2, "batch_size": 4, "seed": 7},
            **(config or {}),
        }
        fields = {"base_url": server.url if provider == "openai" else None, **fields}
        request = FinetuningRequest(
            provider=provider, config=PipelineConfig.parse(values), **fields
        )
        return FinetuningStorage.create(tmp_path / "finetunings", request)

    return _make


class Waits(list):
    """Takes the place of sleep, and remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits():
    return Waits()
