"""Adapters combined: what comes out adds up, loads like any other, and fits or is refused."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import AdapterError
from finetune_core.models.combining import THINNED, CombineRequest, combine
from finetune_core.models.source import TOKENIZER_FILES

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory):
    """Makes an adapter whose update is not nothing."""

    def adapter(seed, rank=4):
        folder = tmp_path_factory.mktemp("adapter")
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=rank, lora_alpha=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False
        )
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        peft.get_peft_model(base, config).save_pretrained(folder)
        values = json.loads((folder / "adapter_config.json").read_text())
        values["base_model_name_or_path"] = str(tiny_base)
        (folder / "adapter_config.json").write_text(json.dumps(values))
        for name in TOKENIZER_FILES:
            if (tiny_base / name).is_file():
                shutil.copy2(tiny_base / name, folder)
        return folder

    return adapter


@pytest.fixture(scope="module")
def two(adapter):
    return adapter(1), adapter(2)


@pytest.fixture
def combined(tiny_base, tmp_path):
    def combined(adapters, way, weights=None, output="combined"):
        request = CombineRequest(
            adapters=list(adapters),
            refs=[f"part@{number}" for number in range(len(adapters))],
            weights=weights or [1.0] * len(adapters),
            way=way,
            density=0.5,
            seed=3,
            model=ModelConfig(name=str(tiny_base)),
            output=tmp_path / output,
        )
        return combine(request, print)

    return combined


def update(tiny_base, folder):
    """What an adapter adds to a layer's weights."""
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), folder)
    layer = model.get_base_model().get_submodule(LAYER)
    return layer.get_delta_weight("default").detach()


def test_cat_is_the_weighted_sum_of_the_updates(two, combined, tiny_base):
    chosen = combined(two, "cat", [1.0, 0.5])
    expected = update(tiny_base, two[0]) + 0.5 * update(tiny_base, two[1])
    assert torch.allclose(update(tiny_base, chosen.folder), expected, atol=1e-5)
    assert chosen.reason == "cat of part@0 x 1, part@1 x 0.5"


@pytest.mark.parametrize("way", ["linear", *THINNED])
def test_each_way_gives_an_adapter_of_the_same_rank_that_does_something(
    way, two, combined, tiny_base
):
    chosen = combined(two, way)
    config = json.loads((chosen.folder / "adapter_config.json").read_text())
    assert config["r"] == 4
    assert config["target_modules"] == ["q_proj", "v_proj"]
    made = update(tiny_base, chosen.folder)
    assert made.abs().max() > 0
    assert not torch.allclose(made, update(tiny_base, two[0]))
    assert (chosen.folder / "tokenizer.json").is_file()


def test_the_same_parts_give_the_same_bytes(two, combined):
    first, second = (combined(two, "dare_ties", output=name) for name in ("one", "other"))
    assert first.digest == second.digest


def test_unlike_ranks_combine_by_cat_alone(two, adapter, combined):
    unlike = two[0], adapter(5, rank=8)
    with pytest.raises(AdapterError, match="do not combine by ties"):
        combined(unlike, "ties")
    assert combined(unlike, "cat").digest


def test_adapters_of_two_bases_are_refused(two, adapter, combined, tmp_path):
    other = adapter(6)
    config = other / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "base_model_name_or_path": "another/base"}))
    with pytest.raises(AdapterError, match="base_model_name_or_path"):
        combined((two[0], other), "cat")
    assert not (tmp_path / "combined").exists()
