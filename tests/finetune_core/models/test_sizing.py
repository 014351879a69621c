"""The formula by hand, on the shapes of real models."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from finetune_core.exceptions import ModelLoadError
from finetune_core.models.sizing import Plan, estimate, largest_batch, micro_batch, read_shape

LORA_8 = Plan(method="lora", lora_rank=8)
QLORA_8 = Plan(method="qlora", lora_rank=8, gradient_checkpointing=True)
FULL = Plan(method="full_finetuning")


def test_the_shape_is_that_of_the_model(tiny_base):
    shape = read_shape(tiny_base)
    assert shape.parameters == AutoModelForCausalLM.from_pretrained(tiny_base).num_parameters()
    width, inner, layers = 128, 384, 4
    assert shape.linear == layers * (4 * width * width + 3 * width * inner)
    assert shape.inputs == layers * (6 * width + inner)
    assert shape.outputs == layers * (5 * width + 2 * inner)
    assert (shape.layers, shape.heads, shape.width, shape.positions) == (4, 4, 128, 2048)


def test_the_shape_of_a_model_with_its_layers_the_other_way_round(tmp_path):
    GPT2Config(n_embd=64, n_layer=2, n_head=4).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.inputs == 2 * (64 + 64 + 64 + 256)
    assert shape.outputs == 2 * (192 + 64 + 256 + 64)


def test_what_is_no_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelLoadError, match="is no causal language model"):
        read_shape(tmp_path)


def test_the_estimate_of_an_adapter_counts_what_is_trained(tiny_base):
    shape = read_shape(tiny_base)
    trained = 8 * (shape.inputs + shape.outputs)
    memory = estimate(shape, LORA_8, rows=4, length=100, gpu=True)
    assert memory.weights == 2 * shape.parameters + 4 * trained
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    assert memory.total == memory.weights + 12 * trained + memory.activations


def test_the_estimate_of_all_weights_is_sixteen_bytes_each(tiny_base):
    shape = read_shape(tiny_base)
    memory = estimate(shape, FULL, rows=1, length=1, gpu=True)
    assert memory.total - memory.activations == 16 * shape.parameters


def test_the_estimate_for_gpt_is_near_korthikantis(tmp_path):
    """They count 34 bytes a token and width in a block; checkpointing leaves 2, and one block."""
    GPT2Config(n_embd=256, n_layer=8, n_head=8).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    plain = estimate(shape, FULL, rows=3, length=50, gpu=True).activations
    assert plain == pytest.approx((34 + 6) * 256 * 8 * 150, rel=0.1)
    plan = Plan(method="full_finetuning", gradient_checkpointing=True)
    saving = estimate(shape, plan, rows=3, length=50, gpu=True).activations
    assert saving == pytest.approx((2 * 8 + 34 + 6) * 256 * 150, rel=0.1)


def test_four_bits_are_a_quarter_of_sixteen(tmp_path):
    LlamaConfig(hidden_size=512, num_hidden_layers=4, vocab_size=100).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    sixteen, four = (
        estimate(shape, plan, rows=1, length=1, gpu=True).weights for plan in (LORA_8, QLORA_8)
    )
    assert (sixteen - four) / shape.linear == pytest.approx(2 - 4.127 / 8)


@pytest.mark.parametrize(("free", "rows"), [(99, 0), (112, 1), (222, 1), (445, 4), (10**9, 256)])
def test_the_largest_batch_is_a_power_of_two_that_leaves_a_tenth_free(free, rows):
    assert largest_batch(lambda rows: 100 * rows, free) == rows


@pytest.mark.parametrize(
    ("batch", "largest", "micro"), [(16, 256, 16), (16, 4, 4), (12, 256, 4), (7, 8, 1), (16, 0, 1)]
)
def test_the_rows_at_once_divide_the_batch(batch, largest, micro):
    assert micro_batch(batch, largest) == micro
