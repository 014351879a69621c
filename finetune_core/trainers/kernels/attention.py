"""Causal attention over rows that are padded on the right, for CPUs.

PyTorch's fused attention is made for long rows: on rows of a few hundred tokens its gradient takes
four times as long on a CPU as the plain products.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

NAME = "plain_causal"
LONGEST = 1024  # tokens; beyond, the squares of all heads would take too much memory


class CausalAttention(torch.autograd.Function):
    """softmax(scale · Q Kᵀ + bias) V."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Attends.

        Args:
            ctx: Keeps what the gradient needs.
            query: (rows, heads, tokens, width).
            key: The same.
            value: The same.
            scale: Of the products.
            bias: (tokens, tokens), minus infinity where nothing may be seen.
        """
        shape = query.shape
        query, key, value = (part.reshape(-1, *shape[2:]) for part in (query, key, value))
        weights = torch.softmax(torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale), -1)
        ctx.save_for_backward(query, key, value, weights)
        ctx.scale, ctx.shape = scale, shape
        return torch.bmm(weights, value).view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradients of query, key and value."""
        query, key, value, weights = ctx.saved_tensors
        given = gradients[0].reshape(value.shape)
        for_value = torch.bmm(weights.transpose(1, 2), given)
        for_weights = torch.bmm(given, value.transpose(1, 2))
        products = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
        for_query = torch.bmm(products, key).mul_(ctx.scale)
        for_key = torch.bmm(products.transpose(1, 2), query).mul_(ctx.scale)
        return *(part.view(ctx.shape) for part in (for_query, for_key, for_value)), None, None


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls an attention; the mask is not needed, see `use_plain_attention`."""
    from transformers.integrations.sdpa_attention import repeat_kv

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    parts = (part.to(dtype) for part in (query, key, value))
    with torch.autocast(kind, enabled=False):
        output: torch.Tensor = CausalAttention.apply(  # type: ignore[no-untyped-call]
            *parts, scale, _bias(query.shape[2], dtype)
        )
    return output.transpose(1, 2).contiguous(), None


def use_plain_attention(model: Any, longest: int) -> bool:
    """Has a model attend the plain way, where that is proved to give the same logits.

    Rows are padded on the right, so what is padding lies behind all that is not, where causal
    attention does not look. Windows, caps and the like show in the logits, and are left alone.

    Args:
        model: A causal model.
        longest: The tokens of the longest row.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if model.device.type != "cpu" or longest > LONGEST:
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    own, was_training = model.config._attn_implementation, model.training
    ids = torch.arange(longest)[None] % model.config.get_text_config().vocab_size
    model.eval()
    try:
        with torch.no_grad():
            expected = model(input_ids=ids).logits
            model.set_attn_implementation(NAME)
            found = model(input_ids=ids).logits
        tolerance = 1e-4 if found.dtype == torch.float32 else 5e-2
        same = torch.allclose(found.float(), expected.float(), rtol=tolerance, atol=tolerance)
    except Exception:  # a family that calls attention otherwise
        same = False
    if not same:
        model.set_attn_implementation(own)
    model.train(was_training)
    return same


@lru_cache(maxsize=8)
def _bias(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    return torch.zeros(tokens, tokens, dtype=dtype).masked_fill_(hidden, float("-inf"))
