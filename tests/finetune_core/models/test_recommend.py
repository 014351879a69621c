"""The table at its boundaries, and configs that train takes."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from finetune_core import child
from finetune_core.config import PipelineConfig
from finetune_core.config.sections import ModelConfig
from finetune_core.models.recommend import (
    Recommendation,
    RecommendRequest,
    Rows,
    choose,
    recommend,
)
from finetune_core.models.sizing import Plan

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
        "finetune_core.models.recommend:recommend",
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
