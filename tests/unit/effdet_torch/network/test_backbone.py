"""The timm backbones: padding against TensorFlow's definition of SAME; `tests/contract` compares their layers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.architecture.backbone import backbone_channels, is_lite, usual_taps
from effdet_torch.network.backbone import Backbone


def same_conv(images: Tensor, weight: Tensor, stride: int, groups: int) -> Tensor:
    """Convolve with TensorFlow's SAME padding: the output has ceil(in / stride) rows, the odd row goes to the end."""

    def pads(size: int, kernel: int) -> tuple[int, int]:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    top, bottom = pads(images.shape[2], weight.shape[2])
    left, right = pads(images.shape[3], weight.shape[3])
    return F.conv2d(F.pad(images, (left, right, top, bottom)), weight, stride=stride, groups=groups)


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    torch.manual_seed(0)
    return Backbone("efficientnet-lite0", "relu6").eval()


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-lite0"])
def test_norms_and_activations_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(name, "relu6" if is_lite(name) else "swish")
    modules = list(backbone.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    kinds = {type(module) for module in modules}
    assert kinds & {nn.ReLU6, nn.SiLU, nn.Sigmoid} == ({nn.ReLU6} if is_lite(name) else {nn.SiLU, nn.Sigmoid})


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (33, 71), (1, 1)])
def test_features_halve_rounding_up(lite0: nn.Module, size: tuple[int, int]) -> None:
    channels = backbone_channels("efficientnet-lite0")
    with torch.no_grad():
        features = lite0(torch.zeros(2, 3, *size))
    assert [tuple(f.shape) for f in features] == [
        (2, channels[level], math.ceil(size[0] / 2**level), math.ceil(size[1] / 2**level)) for level in (3, 4, 5)
    ]


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (8, 5), (1, 2)])
@pytest.mark.parametrize("name", ["conv_stem", "blocks.1.0.conv_dw", "blocks.2.0.conv_dw", "blocks.2.1.conv_dw"])
def test_padding_is_same(lite0: nn.Module, name: str, size: tuple[int, int]) -> None:
    conv = lite0.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    images = torch.randn(1, conv.in_channels, *size)
    expected = same_conv(images, conv.weight, conv.stride[0], conv.groups)
    torch.testing.assert_close(conv(images), expected)
    if conv.stride[0] == 2 and size == (6, 6):  # control: symmetric padding would be noticed
        symmetric = F.conv2d(images, conv.weight, stride=2, padding=conv.weight.shape[2] // 2, groups=conv.groups)
        assert not torch.allclose(symmetric, expected, atol=0.1)


def test_drop_path_only_when_asked(lite0: nn.Module) -> None:
    with torch.device("meta"):
        dropping = Backbone("efficientnet-lite0", drop_path_rate=0.2)
    rates = [getattr(module, "drop_prob", 0.0) for module in dropping.modules()]
    assert 0.15 < max(rates) < 0.2  # proportional to the block's number, so below the rate itself
    assert not any(getattr(module, "drop_prob", 0.0) for module in lite0.modules())


TAPS = ((2, 1), (4, 2), (6, 0))


def test_taps_inside_stages_give_the_outputs_of_their_blocks() -> None:
    whole, tapped = Backbone("efficientnet-b1").eval(), Backbone("efficientnet-b1", taps=TAPS).eval()
    known = tapped.state_dict()
    assert whole.state_dict().keys() - known.keys() == {
        key for key in whole.state_dict() if key.startswith("blocks.6.1.")
    }
    tapped.load_state_dict({key: tensor for key, tensor in whole.state_dict().items() if key in known})
    seen = dict[str, Tensor]()
    for stage, block in TAPS:
        name = f"blocks.{stage}.{block}"
        whole.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        ends, features = whole(images), tapped(images)
    for (stage, block), feature, end in zip(TAPS, features, ends, strict=True):
        assert torch.equal(feature, seen[f"blocks.{stage}.{block}"])
        assert not torch.equal(feature, end)  # negative control


def test_usual_taps_change_nothing() -> None:
    taps = usual_taps("efficientnet-b1", 3)
    assert taps == ((2, 2), (4, 3), (6, 1))
    one, other = Backbone("efficientnet-b1"), Backbone("efficientnet-b1", taps=taps)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert one.output_blocks == other.output_blocks
