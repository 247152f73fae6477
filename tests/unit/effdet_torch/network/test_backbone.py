"""The timm backbones: their layers against `architecture`, their padding against TensorFlow's definition of SAME."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.architecture import BACKBONES, backbone_blocks, backbone_channels, is_lite
from effdet_torch.network.backbone import create_backbone


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
    return create_backbone("efficientnet-lite0", "relu6").eval()


@pytest.mark.parametrize("name", list(BACKBONES))
def test_layers_are_those_of_the_architecture(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
    expected = {}
    for block in backbone_blocks(name):
        prefix, kernel_size = f"blocks.{block.stage}.{block.block}", block.kernel_size
        expected[f"{prefix}.conv_dw.weight"] = (block.mid_channels, 1, kernel_size, kernel_size)
        last = "conv_pwl" if block.expands else "conv_pw"
        expected[f"{prefix}.{last}.weight"] = (block.out_channels, block.mid_channels, 1, 1)
        if block.expands:
            expected[f"{prefix}.conv_pw.weight"] = (block.mid_channels, block.in_channels, 1, 1)
        if block.squeeze_excite_channels:
            squeezed = (block.squeeze_excite_channels, block.mid_channels, 1, 1)
            expected[f"{prefix}.se.conv_reduce.weight"] = squeezed
            expected[f"{prefix}.se.conv_expand.weight"] = (squeezed[1], squeezed[0], 1, 1)
    found = {
        key: tuple(p.shape) for key, p in backbone.named_parameters() if ".conv_" in key and key.endswith("weight")
    }
    assert found == expected
    strides = {(b.stage, b.block): b.stride for b in backbone_blocks(name)}
    for (stage, number), stride in strides.items():
        assert backbone.get_submodule(f"blocks.{stage}.{number}.conv_dw").stride == (stride, stride)


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-lite0"])
def test_norms_and_activations_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name, "relu6" if is_lite(name) else "swish")
    modules = list(backbone.modules())
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    kinds = {type(module) for module in modules}
    assert (nn.ReLU6 in kinds, nn.SiLU in kinds, nn.Sigmoid in kinds) == (
        is_lite(name),
        not is_lite(name),
        not is_lite(name),
    )


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


def test_symmetric_padding_would_be_noticed(lite0: nn.Module) -> None:
    weight = lite0.get_parameter("conv_stem.weight")
    images = torch.randn(1, 3, 8, 8)
    symmetric = F.conv2d(images, weight, stride=2, padding=1)
    assert not torch.allclose(symmetric, same_conv(images, weight, 2, 1), atol=0.1)


def test_drop_path_only_when_asked(lite0: nn.Module) -> None:
    with torch.device("meta"):
        dropping = create_backbone("efficientnet-lite0", drop_path_rate=0.2)
    rates = [getattr(module, "drop_prob", 0.0) for module in dropping.modules()]
    assert 0.15 < max(rates) < 0.2  # proportional to the block's number, so below the rate itself
    assert not any(getattr(module, "drop_prob", 0.0) for module in lite0.modules())
