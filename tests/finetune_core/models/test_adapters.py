"""Which modules get an adapter, and what is said when none would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from finetune_core.config import LoraConfig, ModelConfig
from finetune_core.exceptions import TargetModulesError
from finetune_core.models.adapters import add_lora, train_all
from finetune_core.models.loading import load_model, load_quantized


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def base(tiny_base):
    return load_model(ModelConfig(name=str(tiny_base)))


def adapted(model) -> set[str]:
    names = (name for name, _ in model.get_base_model().named_modules())
    return {name.removesuffix(".lora_A") for name in names if name.endswith(".lora_A")}


@pytest.mark.parametrize(
    "targets",
    [["up_proj"], ["mlp.up_proj"], r"model\.layers\.\d+\.mlp\.up_proj", ".*up.*"],
)
def test_a_layer_can_be_named_in_several_ways(base, tokenizer, targets):
    model = add_lora(base, LoraConfig(target_modules=targets), tokenizer)
    assert adapted(model) == {f"model.layers.{n}.mlp.up_proj" for n in range(4)}


def test_one_layer_can_be_named_by_its_whole_name(base, tokenizer):
    name = "model.layers.3.mlp.up_proj"
    assert adapted(add_lora(base, LoraConfig(target_modules=[name]), tokenizer)) == {name}


@pytest.mark.parametrize("targets", ["q_proj", r".*\.c_attn", r"layers\.0\..*"])
def test_an_expression_that_matches_nothing_is_told_what_there_is(base, tokenizer, targets):
    with pytest.raises(TargetModulesError, match=r"no module that .* matches") as error:
        add_lora(base, LoraConfig(target_modules=targets), tokenizer)
    assert repr(targets) in str(error.value)
    assert "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj" in str(
        error.value
    )
    assert re.search(r"a whole name, as model\.layers\.\d\.\w+\.\w+_proj\.", str(error.value))


def test_an_expression_that_matches_more_than_linear_layers_is_refused(base, tokenizer):
    with pytest.raises(TargetModulesError, match=r"no linear layer named model\.layers\.0\.mlp, "):
        add_lora(base, LoraConfig(target_modules=r".*mlp.*"), tokenizer)


@pytest.mark.parametrize("name", ["c_attn", "proj", "embed_tokens", "layers.0"])
def test_a_name_that_no_linear_layer_has_is_refused(base, tokenizer, name):
    with pytest.raises(TargetModulesError, match=f"no module named {name}") as error:
        add_lora(base, LoraConfig(target_modules=["q_proj", name]), tokenizer)
    assert "q_proj" in str(error.value.hint)


def test_layers_of_other_kinds_are_found(tokenizer, tiny_base):
    """GPT-2's are transposed, quantised ones packed."""
    shape = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=2048, n_positions=16)
    attention = add_lora(GPT2LMHeadModel(shape), LoraConfig(target_modules=["c_attn"]), tokenizer)
    assert adapted(attention) == {"transformer.h.0.attn.c_attn"}
    for bits in (4, 8):
        packed = load_quantized(ModelConfig(name=str(tiny_base), quantization_bits=bits))
        model = add_lora(packed, LoraConfig(target_modules=["q_proj"]), tokenizer)
        assert adapted(model) == {f"model.layers.{n}.self_attn.q_proj" for n in range(4)}


def test_pissa_of_transposed_layers_begins_where_the_base_is(tokenizer):
    torch.manual_seed(0)
    shape = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=2048, n_positions=16)
    model = GPT2LMHeadModel(shape).eval()
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        config = LoraConfig(initialization="pissa", lora_dropout=0.0)
        after = add_lora(model, config, tokenizer).eval()(input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_training_every_weight_of_a_large_model_is_warned_of(tokenizer):
    def model(layers):
        sizes = {"hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 32000}
        with torch.device("meta"):
            return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes))

    with pytest.warns(ResourceWarning, match=r"all 1\.\d billion parameters .* GiB"):
        large = train_all(model(16), LoraConfig(), tokenizer)
    assert all(weight.requires_grad for weight in large.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_all(model(1), LoraConfig(), tokenizer)


SAVE = """
import sys
from finetune_core.config import LoraConfig, ModelConfig
from finetune_core.models.adapters import add_lora
from finetune_core.models.loading import load_model

base, initialization, folder = sys.argv[1:]
config = LoraConfig(initialization=initialization)
add_lora(load_model(ModelConfig(name=base)), config).save_pretrained(folder)
"""


@pytest.mark.parametrize(
    "initialization", ["default", pytest.param("pissa", marks=pytest.mark.slow)]
)
def test_an_adapters_config_is_the_same_bytes_each_time(tiny_base, tmp_path, initialization):
    saved = set()
    for seed in "123":
        folder = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", SAVE, str(tiny_base), initialization, str(folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
        saved.add((folder / "adapter_config.json").read_bytes())
    assert len(saved) == 1
