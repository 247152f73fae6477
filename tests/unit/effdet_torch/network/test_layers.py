"""The layers that the parts of the network share; `tests/contract/test_timm_backbone.py` compares them with timm's."""

from __future__ import annotations

import math

import pytest
import torch

from effdet_torch.network.layers import ActivatedNorm, DropPath, same_padding


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_same_padding_gives_all_places_that_the_stride_reaches(kernel_size: int, stride: int) -> None:
    for size in range(1, 12):
        padded = size + same_padding(size, kernel_size, stride)
        assert (padded - kernel_size) // stride + 1 == math.ceil(size / stride)
        assert padded in (size, (math.ceil(size / stride) - 1) * stride + kernel_size)  # none too many


def test_dropped_images_are_0_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    drop, features = DropPath(0.25), torch.ones(4000, 2, 3, 3)
    dropped = drop.train()(features)
    values = dropped.flatten(1)
    assert (values == values[:, :1]).all()  # an image as a whole
    assert values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((values[:, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert drop.eval()(features) is features
    assert DropPath(0.0).train()(features) is features


def test_an_activated_norm_learns_like_a_norm_of_torch() -> None:
    torch.manual_seed(0)
    ours, images = ActivatedNorm(3, "relu"), torch.randn(4, 3, 8, 8)
    theirs = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.01)
    for training in (True, True, False):
        found, expected = (norm.train(training)(images) for norm in (ours, theirs))
        assert torch.equal(found, expected.relu())
        assert not torch.equal(found, expected)
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.num_batches_tracked == 2
