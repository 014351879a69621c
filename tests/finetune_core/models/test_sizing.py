"""The table at its boundaries, the formula by hand, and configs that train takes."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from finetune_core import child
from finetune_core.config import PipelineConfig
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import ModelLoadError
from finetune_core.models.sizing import (
    Plan,
    Recommendation,
    RecommendRequest,
    Rows,
    choose,
    estimate,
    largest_batch,
    micro_batch,
    read_shape,
    recommend,
)

B, M = 10**9, 10**6
QLORA_16 = Plan(method="qlora", lora_rank=16, gradient_checkpointing=True)
QLORA_8 = Plan(method="qlora", lora_rank=8, gradient_checkpointing=True)
LORA_16, LORA_8, LORA_4 = (Plan(method="lora", lora_rank=rank) for rank in (16, 8, 4))
FULL = Plan(method="full_finetuning")


def ignore(_):
    pass


@pytest.mark.parametrize(
    ("parameters", "memory_gb", "plan"),
    [
        (7 * B + 1, 0, QLORA_16),
        (7 * B + 1, 80, QLORA_16),
        (7 * B, 16, LORA_16),
        (7 * B, 15.9, QLORA_8),
        (B + 1, 16, LORA_16),
        (B + 1, 15.9, QLORA_8),
        (B, 8, LORA_8),
        (B, 7.9, LORA_4),
        (300 * M + 1, 8, LORA_8),
        (300 * M + 1, 7.9, LORA_4),
        (300 * M + 1, 0, LORA_4),
        (300 * M, 4, LORA_8),
        (300 * M, 3.9, FULL),
        (1, 0, FULL),
        (1, 80, LORA_8),
    ],
)
def test_the_table_at_its_boundaries(parameters, memory_gb, plan):
    assert choose(parameters, memory_gb) == plan


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


SIZES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
    "2b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 28},
    "500m": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
}


@pytest.mark.parametrize(
    ("size", "memory_gb", "plan"),
    [
        ("8b", 24, QLORA_16),
        ("2b", 16, LORA_16),
        ("2b", 12, QLORA_8),
        ("500m", 8, LORA_8),
        ("500m", 6, LORA_4),
    ],
)
def test_a_config_says_what_the_table_says_and_is_one(tmp_path, size, memory_gb, plan):
    config = LlamaConfig(vocab_size=32000, max_position_embeddings=512, **SIZES[size])
    config.save_pretrained(tmp_path)
    request = RecommendRequest(
        model=ModelConfig(name=str(tmp_path)),
        dataset="rows.jsonl",
        rows=Rows(count=1001, longest=400, mean=200),
        memory_gb=memory_gb,
    )
    found = recommend(request, ignore)
    assert (found.plan, found.measured) == (plan, None)
    assert found.not_measured == "there is no GPU here"
    assert found.steps == 3 * 63
    assert found.estimate.memory_bytes <= 0.9e9 * memory_gb
    config = PipelineConfig.parse(found.config)
    assert config.training.method.value == plan.method
    assert config.training.gradient_checkpointing is plan.gradient_checkpointing
    assert config.training.micro_batch_size == found.micro_batch_size
    assert (config.lora.lora_rank, config.lora.lora_alpha) == (plan.lora_rank, 2 * plan.lora_rank)
    assert config.tokenization.max_length == 512
    assert config.dataset.path == "rows.jsonl"
    if plan.method == "qlora":
        assert config.model.quantization_bits == 4


def test_a_model_that_does_not_fit_is_told_so(tmp_path):
    LlamaConfig(vocab_size=32000, **SIZES["8b"]).save_pretrained(tmp_path)
    request = RecommendRequest(model=ModelConfig(name=str(tmp_path)), memory_gb=4)
    found = recommend(request, ignore)
    assert found.estimate.largest_batch == 0
    assert found.estimate.memory_bytes > 4e9


def test_a_small_model_is_measured(tiny_base, tmp_path):
    """In a process of its own, as its memory is what is measured."""
    found = child.run(
        "finetune_core.models.sizing:recommend",
        RecommendRequest(
            model=ModelConfig(name=str(tiny_base)),
            rows=Rows(count=800, longest=256, mean=64),
            memory_gb=2,
            measure=True,
        ),
        Recommendation,
        folder=tmp_path,
    )
    assert found.plan == FULL
    assert found.measured is not None
    assert found.measured.step_seconds > 0
    assert found.measured.total_seconds == pytest.approx(150 * found.measured.step_seconds)
    assert found.measured.largest_batch in [2**power for power in range(9)]
    assert found.batch_size % found.micro_batch_size == 0
    assert 0.3 < found.measured.memory_bytes / found.estimate.memory_bytes < 3
    PipelineConfig.parse(found.config)
