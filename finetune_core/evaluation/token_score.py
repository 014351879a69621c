"""Loss and accuracy over the trained tokens, summed so that batches can be added up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from finetune_core.data.masks import IGNORED
from finetune_core.types import Task


class TokenScore(NamedTuple):
    """The score of some trained tokens."""

    loss: float
    accuracy: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """E to the loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def aligned(
    logits: torch.Tensor, labels: torch.Tensor, task: Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, (rows, labels, classes), and the labels, (rows, labels), that they foretell.

    Args:
        logits: As a model gives them: a causal one at the place before a label, one that writes
            answers by themselves at a label's own, one that chooses (rows, classes).
        labels: (rows, labels).
        task: The model's.
    """
    if task is Task.CAUSAL:
        return logits[:, :-1], labels[:, 1:]
    return (logits[:, None] if task is Task.CLASSIFICATION else logits), labels


def token_sums(
    logits: torch.Tensor, labels: torch.Tensor, task: Task = Task.CAUSAL
) -> torch.Tensor:
    """Sums over the trained tokens of each row; a chosen label counts as one.

    Args:
        logits: As a model of this task gives them.
        labels: (rows, tokens), `IGNORED` where nothing is trained.
        task: The model's.

    Returns:
        (rows, 3), float64: negative log-likelihood in nats, tokens predicted right, tokens.
    """
    logits, labels = aligned(logits, labels, task)
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
