"""Loss and accuracy over the trained tokens, summed so that batches can be added up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from finetune_core.data.masks import IGNORED


class TokenScore(NamedTuple):
    """The score of some trained tokens."""

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """E to the loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def token_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sums over the trained tokens of each row.

    Args:
        logits: (rows, tokens, vocabulary).
        labels: (rows, tokens), `IGNORED` where nothing is trained.

    Returns:
        (rows, 3), float64: negative log-likelihood in nats, tokens predicted right, tokens.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    trained = labels != IGNORED
    picked = logits[trained].float()
    targets = labels[trained]
    losses = torch.zeros(labels.shape, dtype=torch.float64, device=logits.device)
    hits = torch.zeros_like(losses)
    losses[trained] = torch.nn.functional.cross_entropy(picked, targets, reduction="none").double()
    hits[trained] = (picked.argmax(-1) == targets).double()
    return torch.stack([losses.sum(1), hits.sum(1), trained.sum(1).double()], dim=1)


def score(sums: torch.Tensor) -> TokenScore:
    """The score of all rows together, each token counting the same.

    Args:
        sums: (rows, 3), as `token_sums` gives them.
    """
    loss, hits, tokens = sums.double().sum(0).tolist()
    return TokenScore(loss / tokens, hits / tokens, int(tokens))
