"""PiSSA: an adapter that begins as the main directions of the base's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from finetune_core.models.adapters import put_in_order

WEIGHTS = "adapter_model.safetensors"

Tensors = dict[str, torch.Tensor]


class PissaModel(peft.PeftModel):  # type: ignore[misc]  # peft is untyped
    """A model with such an adapter, saved so that it fits the base as it was.

    PiSSA (arXiv 2404.02948) takes the first singular vectors, A₀ and B₀, out of the base, so its
    A and B fit that changed base alone. What is saved is an adapter of twice the rank, [A; A₀]
    and [B, -B₀], which does to the plain base what A and B do to the changed one. A training goes
    on from it too: its first half is what was trained.
    """

    def __init__(self, model: Any, config: peft.LoraConfig) -> None:
        super().__init__(model, config)
        tensors = peft.get_peft_model_state_dict(self, save_embedding_layers=False)
        self._initial = {name: tensors[name].detach().cpu().clone() for name in _factors(tensors)}

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Saves the adapter that fits the plain base."""
        super().save_pretrained(str(save_directory), **options)
        file = Path(save_directory) / WEIGHTS
        save_file(_join(load_file(file), self._initial), file, metadata={"format": "pt"})
        config = peft.LoraConfig.from_pretrained(str(save_directory))
        config.init_lora_weights = True
        config.lora_alpha *= 2**0.5 if config.use_rslora else 2  # the scale stays as it is
        config.r *= 2
        put_in_order(config)
        config.save_pretrained(str(save_directory))

    def load_adapter(self, model_id: str | Path, adapter_name: str, **_: Any) -> None:
        """Goes on from what `save_pretrained` wrote."""
        trained, initial = _split(load_file(Path(model_id) / WEIGHTS))
        if any(not torch.equal(self._initial[name], initial[name]) for name in initial):
            # Another machine finds other vectors, and the base lacks those: it gets them back.
            for factors, sign in ((self._initial, 1), (initial, -1)):
                peft.set_peft_model_state_dict(self, factors, adapter_name)
                self._change_base(adapter_name, sign)
            self._initial = initial
        peft.set_peft_model_state_dict(self, trained, adapter_name)

    def _change_base(self, adapter_name: str, sign: int) -> None:
        for part in self.modules():
            if isinstance(part, LoraLayer):
                weight = part.get_base_layer().weight
                weight.data += sign * part.get_delta_weight(adapter_name).to(weight.dtype)


def _factors(tensors: Tensors) -> list[str]:
    return [name for name in tensors if ".lora_A." in name or ".lora_B." in name]


def _join(trained: Tensors, initial: Tensors) -> Tensors:
    joined = dict(trained)  # which may hold more: magnitudes, rows of embeddings
    for name in _factors(trained):
        if ".lora_A." in name:
            joined[name] = torch.cat([trained[name], initial[name]], dim=0)
        else:
            joined[name] = torch.cat([trained[name], -initial[name]], dim=1)
    return joined


def _split(joined: Tensors) -> tuple[Tensors, Tensors]:
    trained, initial = dict(joined), {}
    for name in _factors(joined):
        if ".lora_A." in name:
            trained[name], initial[name] = joined[name].chunk(2, dim=0)
        else:
            trained[name], negative = joined[name].chunk(2, dim=1)
            initial[name] = -negative
    return trained, initial
