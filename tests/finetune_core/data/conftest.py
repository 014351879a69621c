"""The shipped tokenizer."""

from __future__ import annotations

import pytest

from finetune_core.data.encode import load_tokenizer


@pytest.fixture
def tokenizer(tiny_base):
    """A fresh one for each test: some give it another template."""
    return load_tokenizer(tiny_base)
