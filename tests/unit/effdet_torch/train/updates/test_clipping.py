from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.train.updates.clipping import clip_gradients, official_variables


def tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2), (4,), (), (2, 2, 2))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * 10**i for i, shape in enumerate(shapes)]


def official(gradients: list[Tensor], limit: float) -> list[Tensor]:
    """Both clips, one variable after the other, as TensorFlow writes them."""
    first = [g * limit / max(float(torch.linalg.vector_norm(g)), limit) for g in gradients]
    norm = sum(float(g.square().sum()) for g in first) ** 0.5
    return [g * limit * min(1 / norm, 1 / limit) for g in first]


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
def test_both_clips(limit: float) -> None:
    found, expected = tensors(), official(tensors(), limit)
    norm = clip_gradients(found, limit)
    assert float(norm) == pytest.approx(float(torch.cat([t.flatten() for t in tensors()]).norm()))
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_the_clip_of_torch_is_another() -> None:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in tensors()]
    for parameter, gradient in zip(parameters, tensors(), strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, 0.5)
    assert not torch.allclose(parameters[0].grad, official(tensors(), 0.5)[0], rtol=1e-3)  # type: ignore[arg-type]


def test_0_clips_nothing_and_small_gradients_keep_their_bits() -> None:
    for limit in (0.0, 1e9):
        found = tensors()
        clip_gradients(found, limit)
        assert all(map(torch.equal, found, tensors()))


def test_gradients_that_are_not_finite_are_left_alone() -> None:
    found = [*tensors(), torch.tensor([1.0, float("inf")], dtype=torch.float64)]
    assert not torch.isfinite(clip_gradients(found, 0.5))
    assert all(map(torch.equal, found, tensors()))


def test_every_fusion_weight_is_a_variable_of_its_own() -> None:
    named = {"fpn.edge_weights": nn.Parameter(torch.zeros(3)), "conv.weight": nn.Parameter(torch.zeros(3))}
    for parameter in named.values():
        parameter.grad = torch.tensor([3.0, -4.0, 0.5])
    named["frozen"] = nn.Parameter(torch.zeros(2), requires_grad=False)
    pieces = official_variables(named)
    assert [tuple(piece.shape) for piece in pieces] == [(), (), (), (3,)]
    for piece in pieces:
        clip_gradients([piece], 2.0)
    torch.testing.assert_close(named["fpn.edge_weights"].grad, torch.tensor([2.0, -2.0, 0.5]))
    torch.testing.assert_close(named["conv.weight"].grad, torch.tensor([3.0, -4.0, 0.5]) * 2 / 25.25**0.5)
