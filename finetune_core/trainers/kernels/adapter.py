"""A linear layer with a LoRA adapter, as one step of autograd without elementwise passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


class LoraLinear(torch.autograd.Function):
    """`x Wᵀ + scale · drop(x) Aᵀ Bᵀ`, with W frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
        kept: torch.Tensor | None,
    ) -> torch.Tensor:
        """Applies the layer.

        Args:
            ctx: Keeps what the gradient needs.
            x: (..., width in).
            weight: (width out, width in).
            bias: (width out,), or nothing.
            a: (rank, width in).
            b: (width out, rank).
            scale: Of the adapter's part.
            kept: As `x` without its leading dimensions joined: 0 where dropout drops, else
                1 / (1 - p); nothing without dropout.
        """
        rows = x.reshape(-1, x.shape[-1])
        a_cast, b_cast = a.to(x.dtype), (b * scale).to(x.dtype)
        dropped = rows if kept is None else rows * kept
        low = dropped @ a_cast.t()
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        y.addmm_(low, b_cast.t())
        ctx.save_for_backward(rows, weight, a_cast, b_cast, low, kept)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradients of x, A and B."""
        rows, weight, a, b, low, kept = ctx.saved_tensors
        dy = gradients[0].reshape(-1, weight.shape[0])
        dlow = dy @ b
        dropped = rows if kept is None else rows * kept
        da = (dlow.t() @ dropped).float()
        db = (dy.t() @ low).float().mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
            if kept is None:
                dx.addmm_(dlow, a)
            else:
                dx.add_((dlow @ a).mul_(kept))
            dx = dx.view(ctx.shape)
        return dx, None, None, da, db, None, None


def use_fast_adapters(model: Any) -> int:
    """Lets the LoRA layers of a model that are plain ones go the fast way; gives their number.

    Layers of another kind (DoRA, quantised, convolutions, several adapters) go their own.
    """
    from peft.tuners.lora.layer import Linear

    layers = [module for module in model.modules() if type(module) is Linear and _is_plain(module)]
    for layer in layers:
        _replace(layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    base = layer.base_layer
    (name, *others) = layer.active_adapters
    return (
        type(base) is nn.Linear
        and not others
        and not layer.fan_in_fan_out
        and not layer.lora_variant
        and not layer.lora_bias.get(name)
        and not base.weight.requires_grad
    )


def _replace(layer: Any) -> None:
    own = layer.forward
    (name,) = layer.active_adapters
    base, a, b = layer.base_layer, layer.lora_A[name], layer.lora_B[name]
    rate = getattr(layer.lora_dropout[name], "p", 0.0)

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or layer.disable_adapters or layer.merged:
            result: torch.Tensor = own(x, *args, **kwargs)
            return result
        x = x.to(base.weight.dtype)
        kept = _kept(x, rate) if rate and layer.training else None
        with torch.autocast(x.device.type, enabled=False):
            return LoraLinear.apply(  # type: ignore[no-any-return, no-untyped-call]
                x, base.weight, base.bias, a.weight, b.weight, layer.scaling[name], kept
            )

    layer.forward = forward


def _kept(x: torch.Tensor, rate: float) -> torch.Tensor:
    """A dropout mask. On a CPU, torch's own generator takes longer than the layer's products."""
    shape = (x.numel() // x.shape[-1], x.shape[-1])
    if x.device.type != "cpu":
        return (
            torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - rate).div_(1 - rate)
        )
    seed = int(torch.randint(2**62, ()))  # of the generator that checkpoints hold
    numbers = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 2**16, shape, np.uint16, endpoint=False
    )
    drawn = torch.from_numpy((numbers >= round(rate * 2**16)).view(np.int8))
    return drawn.to(x.dtype).mul_(1 / (1 - rate))
