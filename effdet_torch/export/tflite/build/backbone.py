"""The backbone."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
from torch import nn

from effdet_torch.export.tflite.build.operations import Operations
from effdet_torch.export.tflite.graph import Tensor
from effdet_torch.network.backbone import Backbone, InvertedResidual
from effdet_torch.network.layers import ActivatedNorm, SqueezeExcite
from effdet_torch.optimize.layers import folded

ROWS_AND_COLUMNS = np.array([1, 2], np.int32)  # axes


def add_backbone(graph: Operations, backbone: Backbone, scope: str, image: Tensor) -> list[Tensor]:
    """Add a backbone.

    Args:
        graph: to add it to.
        backbone: in eval mode.
        scope: of its variables in TensorFlow.
        image: (1, H, W, 3).

    Returns:
        The levels, fine to coarse, (1, H_l, W_l, C_l) each.
    """
    names = _Names(f"{scope}/stem")
    x = _add_layer(graph, names, backbone.conv_stem, backbone.bn1, image)
    levels = []
    for number, block in enumerate(chain.from_iterable(stage.children() for stage in backbone.blocks)):
        assert isinstance(block, InvertedResidual)
        x = _add_block(graph, block, f"{scope}/blocks_{number}", x)
        if number in backbone.output_blocks:
            levels.append(x)
    return levels


class _Names:
    """The names of a block's layers in TensorFlow, which count those of a kind."""

    def __init__(self, scope: str) -> None:
        self.scope, self._counts = scope, Counter[str]()

    def next(self, kind: str) -> str:
        number = self._counts[kind]
        self._counts[kind] += 1
        return f"{self.scope}/{kind}_{number}" if number else f"{self.scope}/{kind}"


def _add_block(graph: Operations, block: InvertedResidual, scope: str, start: Tensor) -> Tensor:
    names, x, layers = _Names(scope), start, list(block.children())
    for layer, norm in zip(layers, [*layers[1:], nn.Identity()], strict=True):
        if isinstance(layer, SqueezeExcite):
            x = _add_squeeze_excite(graph, layer, f"{scope}/se", x)
        elif isinstance(layer, nn.Conv2d):
            x = _add_layer(graph, names, layer, norm, x)
    return graph.total(x, start, f"{scope}/Add") if block.adds else x


def _add_layer(graph: Operations, names: _Names, layer: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Add a convolution, the batch norm behind it and the activation behind that, if there is one."""
    bias = f"{names.next('tpu_batch_normalization')}/FusedBatchNormV3"
    if layer.groups > 1:
        kernel = f"{bias};{names.next('depthwise_conv2d')}/depthwise"
    else:
        kernel = f"{names.next('conv2d')}/Conv2D"
    activation = norm.act if isinstance(norm, ActivatedNorm) else None
    return graph.convolve(x, graph.convolution(folded(layer, norm), kernel, bias), activation)


def _add_squeeze_excite(graph: Operations, layer: SqueezeExcite, scope: str, x: Tensor) -> Tensor:
    axes = graph.shared(f"{scope}/Mean/reduction_indices", ROWS_AND_COLUMNS)
    small = graph.add("MEAN", (x, axes), (1, 1, 1, x.shape[3]), f"{scope}/Mean", keepDims=True)
    for name, conv, activation in (("conv2d", layer.conv_reduce, layer.act1), ("conv2d_1", layer.conv_expand, None)):
        names = f"{scope}/{name}/Conv2D", f"{scope}/{name}/BiasAdd/ReadVariableOp"
        small = graph.convolve(small, graph.convolution(conv, *names), activation)
    gates = graph.add("LOGISTIC", (small,), small.shape, f"{scope}/Sigmoid_1")
    return graph.product(gates, x, f"{scope}/mul_2")
