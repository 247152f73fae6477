from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from effdet_torch.train.recipe import OFFICIAL, make_recipe
from effdet_torch.train.updates.optimizers import OfficialAdam, make_optimizer, set_learning_rate


def parameter(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((2, 1), value, dtype=torch.float64))


def test_momentum_is_not_scaled_by_the_learning_rate() -> None:
    weight = parameter()
    optimizer, speed, expected = make_optimizer({"w": weight}, OFFICIAL), 0.0, 0.0
    for rate, gradient in ((0.1, 1.0), (0.2, -2.0), (0.05, 0.5)):
        set_learning_rate(optimizer, rate)
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        speed = 0.9 * speed + gradient
        expected -= rate * speed
    assert weight.flatten().tolist() == pytest.approx([expected] * 2)


def plain_adam(gradients: list[float], rate: float) -> float:
    """TensorFlow's formula in float64, with its float32 constants."""
    beta1, beta2 = float(np.float32(0.9)), float(np.float32(0.999))
    first = second = value = 0.0
    for number, gradient in enumerate(gradients, 1):
        first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
        scale = rate * math.sqrt(1 - beta2**number) / (1 - beta1**number)
        value -= scale * first / (math.sqrt(second) + 1e-8)
    return value


@pytest.mark.parametrize("gradients", [[1e-8, 1e-8], [1.0, -0.5, 0.25]])
def test_adam_is_the_official_one(gradients: list[float]) -> None:
    weight, other = parameter(), parameter()
    official, of_torch = OfficialAdam([weight], lr=0.01), torch.optim.Adam([other], lr=0.01)
    for gradient in gradients:
        weight.grad, other.grad = torch.full_like(weight, gradient), torch.full_like(other, gradient)
        official.step()
        of_torch.step()
    expected = plain_adam(gradients, 0.01)
    # The powers of the betas are float32.
    assert weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-4)
    assert (other[0].item() == pytest.approx(expected, rel=1e-3)) is (max(gradients) > 1e-3)


def test_adam_leaves_what_has_no_gradient() -> None:
    weight = parameter(1.0)
    OfficialAdam([weight], lr=0.1).step()
    assert weight.flatten().tolist() == [1.0, 1.0]


def test_adamw_decays_kernels_only() -> None:
    named = {"kernel": parameter(1.0), "fpn.edge_weights": parameter(1.0), "bias": nn.Parameter(torch.ones(2))}
    optimizer = make_optimizer(named, make_recipe("official", optimizer="adamw", weight_decay=0.1))
    set_learning_rate(optimizer, 0.5)
    for tensor in named.values():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    found: dict[str, Tensor] = {name: tensor.detach().flatten()[0] for name, tensor in named.items()}
    assert {name: round(float(value), 6) for name, value in found.items()} == {
        "kernel": 0.95,
        "fpn.edge_weights": 1.0,
        "bias": 1.0,
    }
