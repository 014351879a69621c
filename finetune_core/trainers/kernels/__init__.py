"""What makes a step fast: the same numbers as the model's own code, by fewer and larger products.

Each kernel takes the place of a part of the model where it is proved to give the same, and leaves
the rest to the model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from finetune_core.models.tasks import task_of
from finetune_core.trainers.kernels.adapter import use_fast_adapters
from finetune_core.trainers.kernels.attention import use_plain_attention
from finetune_core.trainers.kernels.loss import LossHead, loss_head
from finetune_core.types import Task


class Kernels(NamedTuple):
    """Those that a model uses.

    Attributes:
        head: Makes the loss, where it can.
        plain_attention: Whether rows need no attention mask.
        adapters: The layers that go the fast way.
    """

    head: LossHead | None
    plain_attention: bool
    adapters: int


def use_kernels(model: Any, longest: int) -> Kernels:
    """Puts all kernels on a model that they fit; those of head and attention are for causal ones.

    Args:
        model: The model, with its adapter.
        longest: The tokens of the longest row.
    """
    if task_of(model) is not Task.CAUSAL:
        return Kernels(head=None, plain_attention=False, adapters=use_fast_adapters(model))
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    return Kernels(
        head=loss_head(causal),
        plain_attention=use_plain_attention(causal, longest),
        adapters=use_fast_adapters(model),
    )
