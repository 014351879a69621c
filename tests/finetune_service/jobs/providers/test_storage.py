"""A fine-tuning's folder, and what may not be written into it."""

from __future__ import annotations

import pytest

from finetune_core.exceptions import JobNotFoundError
from finetune_service.exceptions import InvalidValueError
from finetune_service.jobs.providers import FinetuningStorage, open_provider
from tests.finetune_service.jobs.providers.conftest import SECRET


@pytest.mark.parametrize(
    "address", ["nowhere", "ftp://host/v1", "http://", "http://[::1/v1", "file:///etc"]
)
def test_an_address_that_is_none(make, address):
    with pytest.raises(InvalidValueError, match="base_url: must be an address"):
        make(base_url=address)


@pytest.mark.parametrize("address", [f"https://me:{SECRET}@host/v1", f"https://host/?k={SECRET}"])
def test_an_address_with_a_secret_is_refused_and_not_shown(make, address):
    with pytest.raises(InvalidValueError, match="may hold no user") as refused:
        make(base_url=address)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("suffix", ["", "x" * 65])
def test_a_suffix_that_cannot_be(make, suffix):
    with pytest.raises(InvalidValueError, match="suffix: must have 1 to 64"):
        make(suffix=suffix)


def test_relative_paths_mean_the_same_from_everywhere(make, rows, monkeypatch):
    monkeypatch.chdir(rows.parent)
    storage = make(config={"dataset": {"path": "rows.jsonl"}})
    assert storage.request.config.dataset.path == str(rows)
    table = make(config={"dataset": {"path": "table:questions"}})
    assert table.request.config.dataset.path == "table:questions"
    (rows.parent / "gpt-4o-mini").mkdir()
    assert make().request.config.model.name == "gpt-4o-mini"


def test_one_that_is_not_there(tmp_path):
    with pytest.raises(JobNotFoundError, match="there is no fine-tuning finetuning-1"):
        open_provider(FinetuningStorage(tmp_path / "finetuning-1"))
