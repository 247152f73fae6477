"""The BiFPN: pooling and resizing by their definitions, the fusion formulas, and one cell written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil, exp, inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig, Fusion, get_config
from effdet_torch.network.bifpn import BiFPN, Combine, Resample, fusion_weights, max_pool_same
from effdet_torch.network.layers import ConvBatchNorm, SeparableConv

EDGE_WEIGHTS = [1.5, -1.0, 0.5]


def channels(count: int, **others: Any) -> EfficientDetConfig:
    """Return a config whose pyramid has so many channels."""
    return get_config("d0", fpn_channels=count, **others)


def pool_by_definition(planes: Tensor, stride: int = 2) -> Tensor:
    """Maximum of every window; SAME puts the odd row of padding, which counts as -inf, to the end."""

    def pads(size: int) -> tuple[int, int]:
        total = max((ceil(size / stride) - 1) * stride + stride + 1 - size, 0)
        return total // 2, total - total // 2

    padding = (*pads(planes.shape[3]), *pads(planes.shape[2]))
    return nn.functional.max_pool2d(nn.functional.pad(planes, padding, value=-inf), stride + 1, stride)


def half(features: Tensor) -> Tensor:
    return max_pool_same(features, ceil(features.shape[2] / 2), ceil(features.shape[3] / 2))


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 8), (8, 5), (2, 3), (1, 4), (3, 1), (1, 1), (2, 2)])
def test_max_pool_is_same_with_minus_infinity(size: tuple[int, int]) -> None:
    planes = torch.randn(2, 3, *size) - 10  # all negative: padding with 0 would win every border window
    expected = pool_by_definition(planes)
    assert torch.equal(half(planes), expected)
    if size == (8, 8):  # control: symmetric pooling would be noticed
        assert not torch.equal(nn.functional.max_pool2d(planes, 3, 2, padding=1), expected)


@pytest.mark.parametrize(
    ("size", "stride"),
    [((16, 16), 4), ((13, 16), 4), ((9, 17), 4), ((5, 5), 3), ((17, 17), 8), ((33, 40), 8), ((1, 1), 4)],
)
def test_max_pool_over_several_levels(size: tuple[int, int], stride: int) -> None:
    planes = torch.randn(2, 3, *size) - 10
    height, width = (ceil(side / stride) for side in size)
    strides = {(side - 1) // target + 1 for side, target in zip(size, (height, width), strict=True)}
    if len(strides) == 1:  # what the official code derives from the sizes
        assert torch.equal(max_pool_same(planes, height, width), pool_by_definition(planes, strides.pop()))
    assert max_pool_same(planes, height, width).shape[2:] == (height, width)


@pytest.mark.parametrize(
    ("height", "width", "out"), [(3, 5, (5, 10)), (1, 2, (1, 3)), (7, 4, (13, 7)), (20, 12, (40, 23))]
)
def test_nearest_takes_the_floor_of_the_source_index(height: int, width: int, out: tuple[int, int]) -> None:
    features = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    rows = [i * height // out[0] for i in range(out[0])]
    columns = [i * width // out[1] for i in range(out[1])]
    assert torch.equal(Resample(1, channels(1))(features, *out), features[:, :, rows][:, :, :, columns])


def test_resample_keeps_a_fitting_input_and_convolves_first() -> None:
    features = torch.randn(2, 4, 6, 6)
    assert Resample(4, channels(4))(features, 6, 6) is features
    resample = Resample(4, channels(5, redundant_bias=True)).eval()
    assert torch.equal(resample(features, 3, 3), half(resample.conv(features)))


def test_resample_pools_first_if_the_config_says_so() -> None:
    features = torch.randn(2, 4, 6, 6)
    resample = Resample(4, channels(5, conv_after_downsample=True)).eval()
    assert torch.equal(resample(features, 3, 3), resample.conv(half(features)))
    assert torch.equal(resample(features, 6, 6), resample.conv(features))
    assert resample(features, 12, 12).shape == (2, 5, 12, 12)


def test_resample_without_a_batch_norm_keeps_its_bias() -> None:
    resample = Resample(4, channels(5, apply_bn_for_resampling=False))
    assert {name for name, _ in resample.named_parameters()} == {"conv.conv.weight", "conv.conv.bias"}


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("channel_fastattn", [1.5 / 2.0001, 0.0, 0.5 / 2.0001]),
        ("channel_attn", [exp(w) / sum(map(exp, EDGE_WEIGHTS)) for w in EDGE_WEIGHTS]),
        ("sum", [1.0, 1.0, 1.0]),
        ("fastattn", [1.5 / 2.0001, 0.0, 0.5 / 2.0001]),
        ("attn", [exp(w) / sum(map(exp, EDGE_WEIGHTS)) for w in EDGE_WEIGHTS]),
    ],
)
def test_combine_weighs_its_inputs(fusion: Fusion, expected: list[float]) -> None:
    config = channels(8, fpn_cells=2, fusion=fusion)
    node = next(node for node in config.nodes if node.cell == 1 and len(node.inputs) == 3)  # without convolutions
    combine = Combine(node, config)
    assert (combine.edge_weights is None) == (fusion == "sum")
    if combine.edge_weights is not None:
        shape = (3, 8) if fusion.startswith("channel_") else (3,)
        assert torch.equal(combine.edge_weights.detach(), torch.ones(shape))
        weights = torch.tensor(EDGE_WEIGHTS)
        combine.edge_weights.data = weights[:, None].repeat(1, 8) if len(shape) == 2 else weights
        if len(shape) == 2:
            combine.edge_weights.data[:, 5] = 0.0  # one channel with other weights than the rest
    inputs = [torch.randn(1, 8, 4, 4) for _ in range(3)]
    combined = sum(weight * features for weight, features in zip(expected, inputs, strict=True))
    found = combine(inputs, 4, 4)
    if fusion.startswith("channel_"):
        assert not torch.allclose(found[:, 5], combined[:, 5])
        found, combined = (torch.cat([x[:, :5], x[:, 6:]], dim=1) for x in (found, combined))
    torch.testing.assert_close(found, combined)
    if fusion == "fastattn":
        assert not fusion_weights(torch.tensor([-1.0, -2.0]), softmax=False).any()


@pytest.mark.parametrize("size", [(64, 64), (40, 65), (33, 50)])
def test_cell_is_the_one_of_the_paper(size: tuple[int, int]) -> None:
    """With plain sums and no convolutions the cell of figure 2(d) is a few lines."""
    fpn = BiFPN(get_config("lite0", fpn_channels=8, fpn_cells=2))
    cell: Any = fpn.cell[1]  # its inputs have the BiFPN's channels
    for node in cell.fnode:
        node.after_combine = nn.Identity()
    sizes = [size]
    for _ in range(4):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    p3, p4, p5, p6, p7 = (torch.randn(1, 8, *level_size) for level_size in sizes)

    def up(features: Tensor, like: Tensor) -> Tensor:
        rows = torch.arange(like.shape[2]) * features.shape[2] // like.shape[2]
        columns = torch.arange(like.shape[3]) * features.shape[3] // like.shape[3]
        return features[:, :, rows][:, :, :, columns]

    t6 = p6 + up(p7, p6)
    t5 = p5 + up(t6, p5)
    t4 = p4 + up(t5, p4)
    o3 = p3 + up(t4, p3)
    o4 = p4 + t4 + half(o3)
    o5 = p5 + t5 + half(o4)
    o6 = p6 + t6 + half(o5)
    o7 = p7 + half(o6)
    given = [p3, p4, p5, p6, p7]
    for found, expected in zip(cell(given), [o3, o4, o5, o6, o7], strict=True):
        torch.testing.assert_close(found, expected)
    assert len(given) == 5  # the caller's list is left alone


@pytest.mark.parametrize("max_level", [5, 7, 8])
def test_pyramid_extends_the_backbone(max_level: int) -> None:
    fpn = BiFPN(get_config("d0", fpn_channels=8, fpn_cells=1, max_level=max_level)).eval()
    sizes = [(30, 40), (15, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
    inputs = [torch.randn(1, channels, *size) for channels, size in zip((40, 112, 320), sizes, strict=False)]
    outputs = fpn(inputs)
    assert [tuple(output.shape) for output in outputs] == [(1, 8, *size) for size in sizes[: max_level - 2]]
    assert list(fpn.resample) == [str(index) for index in range(3, max_level - 2)]
    if max_level >= 7:
        resample: Any = fpn.resample["3"]
        assert torch.equal(resample(inputs[-1], 4, 5), half(resample.conv(inputs[-1])))
        assert not list(fpn.resample["4"].parameters())


def test_p6_needs_no_conv_when_channels_agree() -> None:
    fpn = BiFPN(get_config("d0", fpn_channels=320, fpn_cells=1))
    assert not list(fpn.resample.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["resample", "separable"])
def test_redundant_bias_equals_a_shifted_mean(kind: str, training: bool) -> None:
    """BN(x + b) with running mean m is BN(x) with running mean m - b; in training both follow the batch."""
    build: Callable[..., Any] = ConvBatchNorm if kind == "resample" else partial(SeparableConv, norm=True)
    biased, folded = (build(4, 6, bias=bias).double() for bias in (True, False))
    bias = biased.conv.bias if kind == "resample" else biased.conv_pw.bias
    nn.init.normal_(bias)
    nn.init.normal_(biased.bn.running_mean)
    state = {
        key: value.clone() for key, value in biased.state_dict().items() if not key.endswith(("conv.bias", "pw.bias"))
    }
    unshifted = state["bn.running_mean"].clone()
    state["bn.running_mean"] -= bias.detach()
    folded.load_state_dict(state)
    biased.train(training)
    folded.train(training)
    features = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(features), biased(features))
    torch.testing.assert_close(folded.bn.running_mean, biased.bn.running_mean - bias.detach())
    if not training:
        folded.bn.running_mean = unshifted
        assert not torch.allclose(folded(features), biased(features), atol=1e-3)


def test_separable_conv_starts_as_the_official_one() -> None:
    torch.manual_seed(0)
    conv = SeparableConv(160, 160, bias=True)
    assert conv.conv_pw.bias is not None
    assert not conv.conv_pw.bias.any()
    for weight, fan_in in ((conv.conv_dw.weight, 9 * 160), (conv.conv_pw.weight, 160)):
        sigma = fan_in**-0.5
        assert weight.std().item() == pytest.approx(sigma, rel=0.05)
        assert weight.abs().max().item() <= 2 * sigma / 0.8796 + 1e-6  # cut off at two sigmas of the uncut normal
