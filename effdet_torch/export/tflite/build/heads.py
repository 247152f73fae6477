"""The class and box heads: convolutions that all levels share, each level's batch norms folded into copies of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from effdet_torch.export.tflite.build.operations import SAME, VALID, Convolution, Operations
from effdet_torch.export.tflite.graph import Tensor
from effdet_torch.network.heads import BatchNormAct, Head, LevelBatchNorms, Residual
from effdet_torch.network.layers import ConvBatchNorm, SeparableConv
from effdet_torch.optimize.layers import folded


def add_head(graph: Operations, head: Head, kind: str, levels: range, features: Sequence[Tensor]) -> list[Tensor]:
    """Add a head.

    Args:
        graph: to add it to.
        head: in eval mode.
        kind: "class" or "box".
        levels: of the pyramid.
        features: [(1, H_l, W_l, C)], fine to coarse.

    Returns:
        [(1, H_l, W_l, anchors * outputs)], fine to coarse.
    """
    found = list(features)
    for repeat, (layer, norms, add) in enumerate(zip(head.conv_rep, head.bn_rep, head.add_rep, strict=True)):
        assert isinstance(norms, LevelBatchNorms)
        assert isinstance(add, Residual)
        scope = f"{kind}_net/{kind}-{repeat}"
        depthwise = _depthwise(graph, layer, scope, len(levels))
        for index, (level, norm) in enumerate(zip(levels, norms, strict=True)):
            assert isinstance(norm, BatchNormAct)
            bias = f"{scope}-bn-{level}/FusedBatchNormV3;{scope}/BiasAdd/ReadVariableOp;{scope}/BiasAdd"
            own = _dense(graph, layer, norm.bn, scope, index, bias)
            output = _convolved(graph, found[index], depthwise, own, norm.act)
            found[index] = graph.total(output, found[index], f"{kind}_net/add") if add.adds else output
    scope = f"{kind}_net/{kind}-predict"
    depthwise = _depthwise(graph, head.predict, scope, len(levels))
    dense = _dense(graph, head.predict, nn.Identity(), scope, len(levels) - 1, f"{scope}/BiasAdd/ReadVariableOp")
    return [_convolved(graph, x, depthwise, dense, None) for x in found]


def _convolved(
    graph: Operations, x: Tensor, depthwise: Convolution | None, dense: Convolution, activation: nn.Module | None
) -> Tensor:
    return graph.convolve(x if depthwise is None else graph.convolve(x, depthwise), dense, activation)


def _depthwise(graph: Operations, layer: nn.Module, scope: str, levels: int) -> Convolution | None:
    """Return the half of a separable convolution that no batch norm changes; None if the convolution is dense."""
    if not isinstance(layer, SeparableConv):
        return None
    name = f"{scope}/separable_conv2d{_end(levels - 1)}/depthwise"  # called after the last operation that uses it
    return graph.convolution(layer.conv_dw, name, "")


def _dense(graph: Operations, layer: nn.Module, norm: nn.Module, scope: str, index: int, bias: str) -> Convolution:
    """Return the convolution that takes in the batch norm of a level."""
    if isinstance(layer, SeparableConv):
        name = f"{scope}/separable_conv2d{_end(index)}"
        return graph.convolution(folded(layer.conv_pw, norm), name, bias, VALID)
    assert isinstance(layer, ConvBatchNorm)
    return graph.convolution(folded(layer.conv, norm), f"{scope}/Conv2D{_end(index)}", bias, SAME)


def _end(index: int) -> str:
    return f"_{index}" if index else ""
