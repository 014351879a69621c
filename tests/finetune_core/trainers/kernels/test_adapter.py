"""The fast way through LoRA layers gives what peft's own code gives, and dropout drops alike."""

from __future__ import annotations

import pytest
import torch

from finetune_core.trainers.kernels.adapter import use_fast_adapters


def loss_and_gradients(model, rows):
    ids, mask, labels = rows
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return loss.item(), dict(zip(weights, gradients, strict=True))


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
@pytest.mark.parametrize("family", ["llama", "qwen2"])  # Qwen2's linear layers have biases
def test_loss_and_gradients_are_pefts_own(build_adapted, rows, family, settings):
    plain, fast = build_adapted(family, **settings), build_adapted(family, **settings)
    assert use_fast_adapters(fast) == 14
    expected, expected_gradients = loss_and_gradients(plain, rows)
    found, gradients = loss_and_gradients(fast, rows)
    assert found == pytest.approx(expected, rel=1e-6)
    assert set(gradients) == set(expected_gradients)
    for name, right in expected_gradients.items():
        assert torch.allclose(gradients[name], right, rtol=1e-4, atol=1e-6), name


def test_a_disabled_adapter_leaves_the_base_alone(build, build_adapted, rows):
    ids, mask, _ = rows
    base, fast = build("llama"), build_adapted()
    use_fast_adapters(fast)
    with torch.no_grad(), fast.disable_adapter():
        found = fast(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(found, base(input_ids=ids, attention_mask=mask).logits)


def test_layers_that_are_more_than_plain_ones_go_their_own_way(build_adapted):
    assert use_fast_adapters(build_adapted(use_dora=True)) == 0
    assert use_fast_adapters(build_adapted("gpt2")) == 0  # convolutions


def layer_of(model):
    return model.base_model.model.model.layers[0].self_attn.q_proj


def test_dropout_drops_inputs_of_the_adapter_alone_and_scales_the_others(build_adapted):
    rate = 0.25
    model = build_adapted(lora_dropout=rate).train()
    use_fast_adapters(model)
    layer = layer_of(model)
    with torch.no_grad():
        x = torch.ones(4000, 32)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        base = layer.base_layer(x)
        a.zero_()
        a[0, 0], b[:, 0] = 1.0, 1.0  # then the adapter gives its first input alone
        added = (layer(x) - base) / layer.scaling["default"]
    values, counts = added[:, 0].unique(return_counts=True)
    assert torch.allclose(values, torch.tensor([0.0, 1 / (1 - rate)]), atol=1e-5)
    deviation = (4000 * rate * (1 - rate)) ** 0.5
    assert abs(counts[0] - 4000 * rate) < 5 * deviation


def test_dropout_is_that_of_torchs_seed_and_differs_from_call_to_call(build_adapted):
    model = build_adapted(lora_dropout=0.5).train()
    use_fast_adapters(model)
    layer, x = layer_of(model), torch.randn(8, 32)
    torch.manual_seed(7)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    model.eval()
    assert torch.equal(layer(x), layer(x))


def test_the_gradient_is_that_of_what_was_not_dropped(build_adapted):
    model = build_adapted(lora_dropout=0.5).train()
    use_fast_adapters(model)
    layer = layer_of(model)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(6, 32, requires_grad=True)

    def output(value):
        torch.manual_seed(3)  # the same draw each time
        return layer(value)

    direction = torch.randn(6, 32)
    gradient, for_a, for_b = torch.autograd.grad(output(x).square().sum(), (x, a, b))
    with torch.no_grad():
        step = 1e-3
        slope = (
            output(x + step * direction).square().sum()
            - output(x - step * direction).square().sum()
        ) / (2 * step)
        assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-2)
        for weight, found in ((a, for_a), (b, for_b)):
            change = torch.randn_like(weight)
            weight.add_(step * change)
            above = output(x).square().sum()
            weight.sub_(2 * step * change)
            below = output(x).square().sum()
            weight.add_(step * change)
            slope = (above - below) / (2 * step)
            assert slope.item() == pytest.approx((found * change).sum().item(), rel=2e-2, abs=0.05)
