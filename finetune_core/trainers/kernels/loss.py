"""The loss of a causal model, over its trained positions and without all of their logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune_core.data.masks import IGNORED

CHUNK = 128  # positions whose logits exist at once


class LinearCrossEntropy(torch.autograd.Function):
    """The summed cross entropy of a linear head, a few positions at a time.

    The gradient is made together with the loss, while the logits are in the cache; all of them
    together would be the largest tensor of a step.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums the loss, and counts the tokens that were found likeliest.

        Args:
            ctx: Keeps the gradients.
            hidden: (positions, width).
            weight: (vocabulary, width).
            targets: (positions,), the tokens that are right.

        Returns:
            Two scalars: the loss, float32, in nats; the count, int64, which has no gradient.
        """
        hits = torch.zeros((), dtype=torch.int64, device=hidden.device)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        weight_cast = weight.to(hidden.dtype)
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight_cast) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            right = targets[part, None]
            logits = (hidden[part] @ weight_cast.t()).float()
            logits.sub_(logits.amax(1, keepdim=True))
            of_right = logits.gather(1, right)
            hits += (of_right == 0).sum()  # what was the largest is 0 now
            loss -= of_right.sum()
            sums = logits.exp_().sum(1, keepdim=True)
            loss += sums.log().sum()
            # From here on it is the gradient: the probabilities, less one for the right token.
            logits.div_(sums)
            logits.scatter_add_(1, right, torch.full_like(right, -1, dtype=logits.dtype))
            gradient = logits.to(hidden.dtype)
            torch.mm(gradient, weight_cast, out=for_hidden[part])
            if for_weight is not None:
                for_weight.addmm_(gradient.t(), hidden[part])
        ctx.save_for_backward(for_hidden, for_weight)
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Scales what `forward` made."""
        scale = gradients[0]
        for_hidden, for_weight = ctx.saved_tensors
        return (
            for_hidden * scale.to(for_hidden.dtype),
            None if for_weight is None else for_weight * scale.to(for_weight.dtype),
            None,
        )


class LossHead:
    """Stands in for a model's head: within `summing`, it gives the loss instead of the logits.

    So the loss is made inside of the model's own forward, and whatever wraps the model (several
    devices, sharding) sees an ordinary forward.

    Args:
        head: The model's output layer: linear, without bias, its output given on unchanged.
    """

    def __init__(self, head: nn.Linear) -> None:
        self._head = head
        self._plain = head.forward
        self._labels: torch.Tensor | None = None
        self.hits = torch.tensor(0)
        """Of the last forward within `summing`: tokens that were found likeliest."""
        self._scores = False
        head.forward = self._forward  # type: ignore[method-assign, assignment]

    @contextmanager
    def scoring(self, labels: torch.Tensor) -> Iterator[None]:
        """Within the block, a forward's `logits` are what `token_sums` makes of them.

        Args:
            labels: (rows, tokens), `IGNORED` where nothing is trained.
        """
        self._scores = True
        with self.summing(labels):
            try:
                yield
            finally:
                self._scores = False

    @contextmanager
    def summing(self, labels: torch.Tensor) -> Iterator[None]:
        """Within the block, a forward's `logits` are the summed loss of these labels.

        Args:
            labels: (rows, tokens), `IGNORED` where nothing is trained.
        """
        self._labels = labels
        try:
            yield
        finally:
            self._labels = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            logits: torch.Tensor = self._plain(hidden)
            return logits
        trained = self._labels[:, 1:] != IGNORED
        if self._scores:
            return self._row_sums(hidden[:, :-1], self._labels[:, 1:], trained)[None]
        picked, targets = hidden[:, :-1][trained], self._labels[:, 1:][trained]
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            picked = picked.to(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            loss, self.hits = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
                picked, self._head.weight, targets
            )
        summed: torch.Tensor = loss.view(1, 1, 1)
        return summed

    def _row_sums(
        self, hidden: torch.Tensor, targets: torch.Tensor, trained: torch.Tensor
    ) -> torch.Tensor:
        """(rows, 3), float64: negative log-likelihood, tokens predicted right, tokens."""
        sums = torch.zeros(3, *targets.shape, dtype=torch.float64, device=hidden.device)
        rows, right = hidden[trained], targets[trained]
        scores = []
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            logits = self._plain(rows[part]).float()
            losses = torch.nn.functional.cross_entropy(logits, right[part], reduction="none")
            scores.append(torch.stack([losses, (logits.argmax(1) == right[part]).float()]))
        sums[:2, trained] = torch.cat(scores, 1).double()
        sums[2] = trained
        return sums.sum(2).t()


def loss_head(model: Any) -> LossHead | None:
    """Puts a `LossHead` on a causal model, where its logits are proved to be the head's output.

    Some families scale or cap their logits behind the head; they keep their own loss.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return None
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, given, output: seen.append(output))
    was_training = model.training
    try:
        with torch.no_grad():
            ids = torch.arange(4, device=head.weight.device)[None]
            logits = model.eval()(input_ids=ids).logits
    finally:
        hook.remove()
        model.train(was_training)
    return LossHead(head) if len(seen) == 1 and torch.equal(seen[0], logits) else None
