"""Counting tokens without a job."""

from __future__ import annotations

import pytest
import tiktoken

from finetune_core.exceptions import InputError
from finetune_service.jobs.providers import open_provider
from tests.conftest import ROOT
from tests.finetune_service.jobs.providers.conftest import MESSAGES


def test_a_tokenizer_that_is_named_counts(make):
    named = open_provider(make(tokenizer=str(ROOT / "examples/tiny_base")))
    assert named.count_tokens(MESSAGES) == open_provider(make("local")).count_tokens(MESSAGES)


def test_by_openais_rule(make, monkeypatch):
    """With an encoding whose tokens are bytes, as OpenAI's own has to be fetched."""
    ranks = {bytes([each]): each for each in range(256)}
    special = {"<|endoftext|>": 256}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens=special
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: encoding)
    model = open_provider(make(config={"model": {"name": "bytes"}}))
    messages = [
        {"role": "user", "content": "Hä?"},
        {"role": "assistant", "content": "<|endoftext|>"},
    ]
    # 4 + 4 and 9 + 13 bytes, three for each message, three for the reply.
    assert model.count_tokens(messages) == 4 + 4 + 9 + 13 + 2 * 3 + 3


def test_a_model_that_nobody_knows(make):
    model = open_provider(make(config={"model": {"name": "nobodys-model"}}))
    with pytest.raises(InputError, match="nobody knows how nobodys-model counts"):
        model.count_tokens(MESSAGES)


def test_an_encoding_that_cannot_be_fetched(make, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError, match="Set TIKTOKEN_CACHE_DIR"):
        open_provider(make()).count_tokens(MESSAGES)
