from __future__ import annotations

import pytest
import torch
from torch import nn

from effdet_torch.network.checkpoint import create_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.train.updates.decay import L2, is_decayed
from support.sources import small_config


def named() -> dict[str, nn.Parameter]:
    kernel, frozen = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((1, 4), 2.0), requires_grad=False)
    return {"a.weight": kernel, "b.weight": frozen, "a.bias": nn.Parameter(torch.ones(2))}


def test_value_counts_frozen_kernels_and_the_gradient_does_not() -> None:
    parameters = named()
    l2 = L2(parameters, 0.1)
    assert float(l2.value()) == pytest.approx(0.05 * (4 * 9 + 4 * 4))
    for name in ("a.weight", "a.bias"):
        parameters[name].grad = torch.ones_like(parameters[name])
    l2.add_gradient()
    torch.testing.assert_close(parameters["a.weight"].grad, torch.full((2, 2), 1.3))
    torch.testing.assert_close(parameters["a.bias"].grad, torch.ones(2))
    assert parameters["b.weight"].grad is None


def test_0_is_no_term() -> None:
    assert L2(named(), 0.0).value() == 0.0


@pytest.mark.parametrize("fusion", ["fastattn", "channel_fastattn"])
def test_fusion_weights_are_not_decayed(fusion: str) -> None:
    model = EfficientDet(small_config(fusion=fusion))
    decayed = [name for name, parameter in model.named_parameters() if is_decayed(name, parameter)]
    assert not [name for name in decayed if "edge_weights" in name or "bn" in name]


def test_as_many_kernels_as_the_official_code_decays() -> None:
    model = create_model("d0", redundant_bias=True)
    assert sum(is_decayed(name, parameter) for name, parameter in model.named_parameters()) == 150
