"""Plain attention is used where it gives the model's own logits, and only there."""

from __future__ import annotations

import pytest
import torch

from finetune_core.trainers.kernels.attention import LONGEST, NAME, use_plain_attention


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
def test_logits_and_gradients_of_padded_rows_are_the_models_own(build, rows, family):
    ids, mask, labels = rows
    plain, fast = build(family), build(family)
    assert use_plain_attention(fast, 20)
    assert fast.config._attn_implementation == NAME
    expected = plain(input_ids=ids, attention_mask=mask, labels=labels)
    found = fast(input_ids=ids, labels=labels)  # no mask: what is padding is not looked at
    there = mask.bool()
    assert torch.allclose(found.logits[there], expected.logits[there], atol=1e-4)
    expected.loss.backward()
    found.loss.backward()
    for mine, right in zip(fast.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, right.grad, rtol=1e-3, atol=1e-5)


def test_no_row_sees_another(build, rows):
    ids, mask, _ = rows
    model = build("llama")
    use_plain_attention(model, 20)
    with torch.no_grad():
        together = model(input_ids=ids).logits
        for row in range(3):
            length = int(mask[row].sum())
            alone = model(input_ids=ids[row : row + 1, :length]).logits
            assert torch.allclose(together[row, :length], alone[0], atol=1e-5)


@pytest.mark.parametrize("family", ["windowed mistral"])
def test_a_family_that_attends_otherwise_is_left_alone(build, family):
    model = build(family)
    own = model.config._attn_implementation
    assert not use_plain_attention(model, 20)
    assert model.config._attn_implementation == own


def test_long_rows_are_left_to_the_fused_kernel(build):
    assert not use_plain_attention(build("llama"), LONGEST + 1)
