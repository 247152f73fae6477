"""The feature pyramid network: levels beyond the backbone's, and the nodes of all cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from effdet_torch.architecture.pyramid import Node
from effdet_torch.config import EfficientDetConfig
from effdet_torch.export.tflite.build.operations import NO_ACTIVATION, SAME, VALID, Operations
from effdet_torch.export.tflite.graph import Tensor
from effdet_torch.network.bifpn import (
    FAST_ATTENTION_EPS,
    BiFPN,
    BiFPNCell,
    BiFPNNode,
    Combine,
    Resample,
    fusion_weights,
)
from effdet_torch.network.layers import ConvBatchNorm, SeparableConv
from effdet_torch.optimize.layers import folded

Size = tuple[int, int]  # rows, columns
Factors = Sequence[tuple[str, torch.Tensor]]  # name and value, () or (C,), of what multiplies one input of a node


def add_pyramid(graph: Operations, fpn: BiFPN, config: EfficientDetConfig, features: Sequence[Tensor]) -> list[Tensor]:
    """Add the pyramid.

    Args:
        graph: to add it to.
        fpn: in eval mode.
        config: of the model.
        features: the backbone's levels, fine to coarse, (1, H_l, W_l, C_l) each.

    Returns:
        All levels, fine to coarse, (1, H_l, W_l, C) each.
    """
    levels = list(features)
    for index, resample in fpn.resample.items():
        _, rows, columns, _ = levels[-1].shape
        size, scope = ((rows + 1) // 2, (columns + 1) // 2), f"resample_p{config.min_level + int(index)}"
        levels.append(_resampled(graph, resample, levels[-1], size, scope, ()))
    nodes = iter(config.nodes)
    for cell in fpn.cell:
        assert isinstance(cell, BiFPNCell)
        known = list(levels)
        for module in cell.fnode:
            assert isinstance(module, BiFPNNode)
            known.append(_add_node(graph, module, next(nodes), known))
        levels = [known[offset] for offset in cell.outputs]
    return levels


def _add_node(graph: Operations, module: BiFPNNode, node: Node, known: Sequence[Tensor]) -> Tensor:
    scope, combine = f"fpn_cells/cell_{node.cell}/fnode{node.index}", module.combine
    assert isinstance(combine, Combine)
    _, rows, columns, _ = known[module.level_index].shape
    terms = []
    for item, resample, factors in zip(node.inputs, combine.resample.values(), _factors(combine, scope), strict=True):
        own = f"{scope}/resample_{item.position}_{item.offset}_{node.feature}"
        terms.append(_resampled(graph, resample, known[item.offset], (rows, columns), own, factors))
    steps = dict(module.after_combine.named_children())
    activation, layer = steps["act"], steps["conv"]
    activates_first = next(iter(steps)) == "act"
    total = terms[0]
    for number, term in enumerate(terms[1:], start=2):
        is_last = activates_first and number == len(terms)
        total = graph.total(total, term, f"{scope}/add_n/add", activation if is_last else None)
    if activates_first and len(terms) == 1:
        total = graph.activate(total, activation)
    own = f"{scope}/op_after_combine{node.feature}"
    return add_node_conv(graph, layer, total, f"{own}/conv", f"{own}/bn", None if activates_first else activation)


def _factors(combine: Combine, scope: str) -> list[Factors]:
    """Return what multiplies every input: the two numbers of TensorFlow's fast attention, or one softmax weight."""
    if combine.edge_weights is None:
        return [()] * len(combine.resample)
    weights = combine.edge_weights.detach().double()
    if combine.softmax:
        return [[(f"{scope}/Softmax", weight)] for weight in fusion_weights(weights, softmax=True)]
    positive = weights.relu()
    quotient = (f"{scope}/truediv;{scope}/add", 1 / (positive.sum(dim=0) + FAST_ATTENTION_EPS))
    ends = ["", *(f"_{number}" for number in range(1, len(positive)))]
    names = [f"{scope}/Relu{end}/ReadVariableOp" for end in ends]
    return [[(name, weight), quotient] for name, weight in zip(names, positive, strict=True)]


def _resampled(graph: Operations, layer: nn.Module, x: Tensor, size: Size, scope: str, factors: Factors) -> Tensor:
    """Bring features to the pyramid's channels and to a size, and multiply them.

    Directly behind a convolution the factors become part of it, as TensorFlow's converter does.
    """
    assert isinstance(layer, Resample)
    is_larger = x.shape[1] > size[0] or x.shape[2] > size[1]
    if is_larger and layer.pool_first:
        x = _pooled(graph, x, size, scope)
    if isinstance(layer.conv, ConvBatchNorm):
        factor, name = None, f"{scope}/conv2d/Conv2D"
        if factors and x.shape[1:3] == size:
            node = scope.rpartition("/")[0]
            name = f"{node}/truediv;{node}/add;{node}/mul;{name}"
            factor, factors = torch.stack([value for _, value in factors]).prod(dim=0), ()
        bias = f"{scope}/bn/FusedBatchNormV3;{scope}/conv2d/BiasAdd/ReadVariableOp;{scope}/conv2d/BiasAdd"
        conv = folded(layer.conv.conv, layer.conv.bn, factor)
        x = graph.convolve(x, graph.convolution(conv, name, bias))
    if is_larger and not layer.pool_first:
        x = _pooled(graph, x, size, scope)
    elif x.shape[1:3] != size:
        x = _enlarged(graph, x, size, scope)
    for name, value in factors:
        x = graph.product(x, graph.shared(name, value.float().numpy()), f"{scope}/mul")
    return x


def _pooled(graph: Operations, x: Tensor, size: Size, scope: str) -> Tensor:
    strides = [max((side - 1) // smaller + 1, 2) for side, smaller in zip(x.shape[1:3], size, strict=True)]
    assert tuple(-(-side // stride) for side, stride in zip(x.shape[1:3], strides, strict=True)) == size
    (y_stride, x_stride), shape = strides, (1, *size, x.shape[3])
    options = {"strideW": x_stride, "strideH": y_stride, "filterWidth": x_stride + 1, "filterHeight": y_stride + 1}
    name = f"{scope}/max_pooling2d/MaxPool"
    return graph.add("MAX_POOL_2D", (x,), shape, name, padding=SAME, **options, fusedActivationFunction=NO_ACTIVATION)


def _enlarged(graph: Operations, x: Tensor, size: Size, scope: str) -> Tensor:
    name = f"{scope}/ResizeNearestNeighbor"
    sizes, shape = graph.shared(f"{name}/size", np.array(size, np.int32)), (1, *size, x.shape[3])
    return graph.add("RESIZE_NEAREST_NEIGHBOR", (x, sizes), shape, name, alignCorners=False, halfPixelCenters=False)


def add_node_conv(
    graph: Operations, layer: nn.Module, x: Tensor, scope: str, norm_scope: str, activation: nn.Module | None
) -> Tensor:
    """Add what `node_conv` built."""
    bias = f"{norm_scope}/FusedBatchNormV3;{scope}/BiasAdd/ReadVariableOp;{scope}/BiasAdd"
    if isinstance(layer, SeparableConv):
        name = f"{scope}/separable_conv2d"
        x = graph.convolve(x, graph.convolution(layer.conv_dw, f"{name}/depthwise", ""))
        pointwise = graph.convolution(folded(layer.conv_pw, layer.bn), name, bias, VALID)
        return graph.convolve(x, pointwise, activation)
    assert isinstance(layer, ConvBatchNorm)
    return graph.convolve(x, graph.convolution(folded(layer.conv, layer.bn), f"{scope}/Conv2D", bias), activation)
