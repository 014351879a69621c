"""Tokens and requests that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_core.config import (
    DatasetConfig,
    LoraConfig,
    ModelConfig,
    TokenizationConfig,
    TrainingConfig,
)
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.trainers.request import TrainRequest

ROWS = 64  # an epoch: 8 steps of 8 rows


def ignore(event):
    """An observer that does nothing."""


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, orders):
    cache = tmp_path_factory.mktemp("cache")
    held_out = cache / "validation.jsonl"
    lines = orders.with_name("validation.jsonl").read_text().splitlines(keepends=True)
    held_out.write_text("".join(lines[:16]))
    dataset = DatasetConfig(path=str(orders), max_samples=64, validation_path=str(held_out))
    clean = sanitize(SanitizeRequest(dataset=dataset, cache=cache / "data"), ignore)
    request = TokenizeRequest(
        clean=clean,
        tokenizer=Path("examples/tiny_base"),
        tokenization=TokenizationConfig(),
        sanitize=dataset.sanitize,
        cache=cache / "tokens",
    )
    tokens = tokenize(request, ignore)
    assert tokens.train_split.rows == ROWS
    return tokens


@pytest.fixture(scope="session")
def request_for(tokens):
    def make(output, *, model="examples/tiny_base", lora=None, **training):
        settings = {"epochs": 1, "batch_size": 8, "logging_steps": 1, "learning_rate": 1e-3}
        return TrainRequest(
            tokens=tokens,
            model=ModelConfig(name=str(model)),
            training=TrainingConfig(**settings | training),
            lora=LoraConfig(**{"lora_dropout": 0.1, "lora_rank": 4} | (lora or {})),
            output=output,
        )

    return make
