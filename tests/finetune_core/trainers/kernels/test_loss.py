"""The loss made inside of the head is the loss that the model's own code gives, as its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from finetune_core.evaluation.token_score import token_sums
from finetune_core.trainers.kernels.loss import CHUNK, LinearCrossEntropy, loss_head


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_loss_and_gradients_are_those_of_the_plain_formula(count):
    torch.manual_seed(0)
    hidden = torch.randn(count, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (count,))
    expected = functional.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    gradients = torch.autograd.grad(expected * 3, (hidden, weight))
    single = hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    found, hits = LinearCrossEntropy.apply(*single, targets)
    assert hits == ((hidden @ weight.t()).argmax(1) == targets).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, right in zip(torch.autograd.grad(found * 3, single), gradients, strict=True):
        assert torch.allclose(mine.double(), right, atol=1e-4)


def test_logits_far_apart_overflow_nothing():
    hidden = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    loss, _ = LinearCrossEntropy.apply(hidden, weight, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(300.0)
    loss.backward()
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
def test_a_model_gives_its_own_loss_and_gradients(build, rows, family):
    ids, mask, labels = rows
    plain, model = build(family), build(family)
    expected = plain(input_ids=ids, attention_mask=mask, labels=labels).loss
    expected.backward()
    head = loss_head(model)
    with head.summing(labels):
        total = model(input_ids=ids, attention_mask=mask).logits.sum()
    count = (labels[:, 1:] != -100).sum()
    (total / count).backward()
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, right in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, right.grad, atol=1e-5)


def test_outside_of_the_block_the_head_gives_logits(build, rows):
    ids, mask, labels = rows
    plain, model = build("llama"), build("llama")
    head = loss_head(model)
    with pytest.raises(ZeroDivisionError), head.summing(labels):
        raise ZeroDivisionError
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(found, plain(input_ids=ids, attention_mask=mask).logits)


@pytest.mark.parametrize("family", ["capped gemma2", "scaled cohere"])
def test_a_family_that_alters_its_logits_keeps_its_own_loss(build, family):
    assert loss_head(build(family)) is None


def test_scores_are_those_of_the_whole_logits(build, rows):
    ids, mask, labels = rows
    model = build("llama")
    with torch.no_grad():
        expected = token_sums(model(input_ids=ids, attention_mask=mask).logits, labels)
        with loss_head(model).scoring(labels):
            found = model(input_ids=ids, attention_mask=mask).logits[0]
    assert found.shape == (3, 3)
    assert torch.allclose(found, expected, rtol=1e-6)
