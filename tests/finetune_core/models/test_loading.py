"""What a base is loaded as."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from finetune_core.config import ModelConfig
from finetune_core.exceptions import ModelLoadError, ModelNotFoundError
from finetune_core.models.loading import (
    fit_vocabulary,
    load_model,
    load_quantized,
    load_to_train,
)

LOADERS = [load_model, load_to_train, load_quantized]


@pytest.fixture
def config(tiny_base):
    def make(**fields):
        return ModelConfig(name=str(tiny_base), **fields)

    return make


@pytest.fixture
def bf16(monkeypatch):
    """A device that has bfloat16."""
    monkeypatch.setattr("finetune_core.models.loading.bf16_on_gpu", lambda: True)


def test_auto_is_what_the_device_has(config, monkeypatch):
    assert load_model(config()).dtype is torch.float32
    monkeypatch.setattr("finetune_core.models.loading.bf16_on_gpu", lambda: True)
    assert load_model(config()).dtype is torch.bfloat16


@pytest.mark.usefixtures("bf16")
def test_weights_that_are_all_trained_are_float32_if_nobody_says_otherwise(config):
    assert load_to_train(config()).dtype is torch.float32
    assert load_to_train(config(torch_dtype="bfloat16")).dtype is torch.bfloat16


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_keeps_and_computes_the_rest_in_the_devices_type(config, bits):
    model = load_quantized(config(quantization_bits=bits))
    assert model.get_input_embeddings().weight.dtype is torch.bfloat16
    assert model.model.norm.weight.dtype is torch.bfloat16
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype is {4: torch.uint8, 8: torch.int8}[bits]
    if bits == 4:
        assert layer.compute_dtype is torch.bfloat16
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[1, 5, 9]])).logits.dtype is torch.bfloat16


@pytest.mark.parametrize("load", LOADERS)
def test_a_model_that_is_not_there(load, tmp_path):
    with pytest.raises(ModelNotFoundError):
        load(ModelConfig(name=str(tmp_path)))


@pytest.mark.parametrize("load", LOADERS)
def test_a_model_that_does_not_load(load, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelLoadError, match="does not load"):
        load(ModelConfig(name=str(tmp_path)))


def test_only_a_token_without_a_row_gets_one(config, tiny_base):
    model, tokenizer = load_model(config()), AutoTokenizer.from_pretrained(tiny_base)
    known = model.get_input_embeddings().weight.detach().clone()
    assert fit_vocabulary(model, tokenizer) == []
    tokenizer.add_tokens(["<|order|>", "<|town|>"])
    assert fit_vocabulary(model, tokenizer) == [2048, 2049]
    table = model.get_input_embeddings().weight
    assert table.shape == (2050, 128)
    assert torch.equal(table[:2048], known)
    assert model.get_output_embeddings().weight is table, "they stay tied"
    assert fit_vocabulary(model, tokenizer) == []


def test_rows_without_a_token_stay(config, tiny_base):
    model, tokenizer = load_model(config()), AutoTokenizer.from_pretrained(tiny_base)
    model.resize_token_embeddings(2100)
    assert fit_vocabulary(model, tokenizer) == []
    assert model.get_input_embeddings().num_embeddings == 2100
