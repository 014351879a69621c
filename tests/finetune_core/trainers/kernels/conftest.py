"""Tiny models with random weights, of families that differ in what matters to the kernels."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=4),
    "mistral": lambda: transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, sliding_window=None
    ),
    "windowed mistral": lambda: transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, sliding_window=8
    ),
    "capped gemma2": lambda: transformers.Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0
    ),
    "scaled cohere": lambda: transformers.CohereConfig(
        **SIZES, num_key_value_heads=4, logit_scale=0.25
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128
    ),
}


@pytest.fixture
def build():
    """Makes a model of a family, always the same, with all weights drawn so that they matter."""

    def build(family):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]())
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        return model.eval()

    return build


@pytest.fixture
def build_adapted(build):
    """The same with a LoRA adapter, both of whose halves are drawn."""

    def build_adapted(family="llama", **settings):
        config = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **settings
        )
        model = peft.get_peft_model(build(family), config)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.2)
        return model

    return build_adapted


@pytest.fixture
def rows():
    """A batch padded on the right: ids, mask and labels."""
    torch.manual_seed(1)
    ids = torch.randint(1, 97, (3, 20))
    labels = ids.clone()
    mask = torch.ones_like(ids)
    for row, (asked, length) in enumerate([(5, 20), (9, 14), (1, 7)]):
        labels[row, :asked] = labels[row, length:] = -100
        mask[row, length:] = ids[row, length:] = 0
    return ids, mask, labels
