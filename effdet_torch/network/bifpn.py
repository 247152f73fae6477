"""Bidirectional feature pyramid network: P3, P4, P5 -> the fused P3..P7 (P8), or other levels.

The graph comes from `pyramid.fpn_nodes`; this file only says what a node computes:

    inputs -> [1x1 conv, BN where channels differ] -> max pool or nearest to the node's size
           -> weighted sum -> activation -> separable conv -> BN

Settings of the config change the order of these steps, or leave one out.

Source: EfficientDet (arXiv:1911.09070) section 3; the official code's `FNode`, `OpAfterCombine`, `ResampleFeatureMap`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.architecture.backbone import BACKBONE_TOP, backbone_channels
from effdet_torch.architecture.pyramid import Node, last_nodes
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError
from effdet_torch.network.layers import ACTIVATIONS, ConvBatchNorm, node_conv

FAST_ATTENTION_EPS = 1e-4


def max_pool_same(features: Tensor, height: int, width: int) -> Tensor:
    """Max pool to a size with TensorFlow's SAME padding, which counts as -inf.

    The window is one larger than the stride: to the next level 3x3 with stride 2. SAME divides the padding between both
    sides, and puts an odd row at the bottom (right). `ceil_mode` is the latter: it lets the last window hang over the
    edge, so no padded copy is made.

    Args:
        features: (B, C, H, W).
        height: of the result.
        width: of the result.

    Returns:
        (B, C, height, width).
    """
    rows, columns = features.shape[2], features.shape[3]
    y_stride, x_stride = max((rows - 1) // height + 1, 2), max((columns - 1) // width + 1, 2)
    y_padding = ((rows + y_stride - 1) // y_stride * y_stride + 1 - rows) // 2
    x_padding = ((columns + x_stride - 1) // x_stride * x_stride + 1 - columns) // 2
    # Where a whole level fits into one window: OpenVINO refuses a window that is larger than what it slides over.
    window = min(y_stride + 1, rows + 2 * y_padding), min(x_stride + 1, columns + 2 * x_padding)
    return F.max_pool2d(features, window, (y_stride, x_stride), padding=(y_padding, x_padding), ceil_mode=True)


def max_pool_symmetric(features: Tensor, height: int, width: int) -> Tensor:
    """Max pool to the next level with the same padding at both ends, as PyTorch's own layers do.

    Args:
        features: (B, C, H, W).
        height: of the result: H / 2, rounded up.
        width: of the result: W / 2, rounded up.

    Returns:
        (B, C, height, width).

    Raises:
        ConfigError: The result is of another size: then this padding does not give it.
    """
    if (features.shape[2] + 1) // 2 != height or (features.shape[3] + 1) // 2 != width:
        raise ConfigError("symmetric padding can only pool to the next level of the pyramid")
    return F.max_pool2d(features, 3, 2, padding=1)


def fusion_weights(edge_weights: Tensor, softmax: bool, eps: float = FAST_ATTENTION_EPS) -> Tensor:
    """Normalise the learnt weights of a node's inputs.

    Args:
        edge_weights: (number of inputs,) or (number of inputs, C), any sign.
        softmax: "attn", softmax(w); otherwise "fastattn", relu(w) / (sum(relu(w)) + eps).
        eps: keeps the division finite when no weight is positive.

    Returns:
        The same shape, none negative.
    """
    if softmax:
        return torch.softmax(edge_weights, dim=0)
    positive = F.relu(edge_weights)
    return positive / (positive.sum(dim=0) + eps)


class Resample(nn.Module):
    """Bring features to the channels of the BiFPN and to the size of another level."""

    def __init__(self, in_channels: int, config: EfficientDetConfig) -> None:
        super().__init__()
        norm, bias = config.apply_bn_for_resampling, config.redundant_bias or not config.apply_bn_for_resampling
        self.conv: nn.Module = nn.Identity()
        if in_channels != config.fpn_channels:
            self.conv = ConvBatchNorm(in_channels, config.fpn_channels, bias=bias, norm=norm)
        self.pool_first = config.conv_after_downsample
        self.is_symmetric = config.padding == "symmetric"
        self.is_bilinear = config.resampling == "bilinear"

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, height, width).

        Nearest upsampling reads source row floor(i * H / height), as TensorFlow does without half-pixel centres;
        bilinear resampling has them, and does not smooth before it makes features smaller.
        """
        is_larger = features.shape[2] > height or features.shape[3] > width
        if is_larger and self.pool_first:
            features = self._smaller(features, height, width)
        resampled: Tensor = self.conv(features)
        if is_larger and not self.pool_first:
            return self._smaller(resampled, height, width)
        if resampled.shape[2] < height or resampled.shape[3] < width:
            if self.is_bilinear:
                return F.interpolate(resampled, size=[height, width], mode="bilinear", align_corners=False)
            return F.interpolate(resampled, size=[height, width], mode="nearest")
        return resampled

    def _smaller(self, features: Tensor, height: int, width: int) -> Tensor:
        if self.is_bilinear:
            return F.interpolate(features, size=[height, width], mode="bilinear", align_corners=False)
        if self.is_symmetric:
            return max_pool_symmetric(features, height, width)
        return max_pool_same(features, height, width)


class Combine(nn.Module):
    """Resample the inputs of a node and add them, each times its fusion weight unless the fusion is "sum"."""

    def __init__(self, node: Node, config: EfficientDetConfig) -> None:
        super().__init__()
        self.softmax = config.fusion in ("attn", "channel_attn")
        self.per_channel = config.fusion.startswith("channel_")
        shape = (len(node.inputs), config.fpn_channels) if self.per_channel else (len(node.inputs),)
        self.edge_weights = nn.Parameter(torch.ones(shape)) if config.fusion != "sum" else None
        self.resample = nn.ModuleDict({item.key: Resample(item.channels, config) for item in node.inputs})

    def forward(self, inputs: list[Tensor], height: int, width: int) -> Tensor:
        """Map inputs [(B, C_i, H_i, W_i)] to (B, C, height, width), the size of the node's level."""
        resampled: list[Tensor] = []
        for index, resample in enumerate(self.resample.values()):
            resampled.append(resample(inputs[index], height, width))
        edge_weights = self.edge_weights
        if edge_weights is not None:
            weights = fusion_weights(edge_weights, self.softmax)
            if self.per_channel:
                weights = weights[:, :, None, None]
            resampled = [features * weights[index] for index, features in enumerate(resampled)]
        combined = resampled[0]
        for features in resampled[1:]:
            combined = combined + features
        return combined


class BiFPNNode(nn.Module):
    """One node of a cell: combine, activate, convolve, normalise."""

    def __init__(self, node: Node, config: EfficientDetConfig) -> None:
        super().__init__()
        self.offsets = [item.offset for item in node.inputs]
        self.level_index = node.level - config.min_level
        self.combine: nn.Module = Combine(node, config)
        activates_last = config.conv_bn_act_pattern
        bias = config.redundant_bias and not activates_last
        steps = [
            ("act", ACTIVATIONS[config.activation]()),
            ("conv", node_conv(config, config.fpn_channels, bias=bias, norm=True)),
        ]
        self.after_combine = nn.Sequential(OrderedDict(reversed(steps) if activates_last else steps))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map all features of the cell so far to the node's (B, C, H, W)."""
        height, width = features[self.level_index].shape[2], features[self.level_index].shape[3]
        output: Tensor = self.after_combine(self.combine([features[i] for i in self.offsets], height, width))
        return output


class BiFPNCell(nn.Module):
    """One pass through the graph: top-down and bottom-up."""

    def __init__(self, nodes: Iterable[Node], config: EfficientDetConfig) -> None:
        super().__init__()
        self.outputs = last_nodes(config.cell, config.levels)
        self.fnode = nn.ModuleList(BiFPNNode(node, config) for node in nodes)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map one feature map per level to one per level, same sizes."""
        features = list(features)  # a copy: the caller's list stays as it is
        for node in self.fnode:
            features.append(node(features))
        return [features[offset] for offset in self.outputs]


class BiFPN(nn.Module):
    """Extend the backbone's levels by coarser ones, then fuse them `config.fpn_cells` times."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        channels = backbone_channels(config.backbone)
        self.resample = nn.ModuleDict()
        for level in range(BACKBONE_TOP + 1, config.max_level + 1):
            in_channels = channels.get(level - 1, config.fpn_channels)
            self.resample[str(level - config.min_level)] = Resample(in_channels, config)
        self.cell = nn.ModuleList(
            BiFPNCell([node for node in config.nodes if node.cell == cell], config) for cell in range(config.fpn_cells)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map the backbone's features to [(B, C, H_l, W_l)] of all levels; each level halves, rounding up."""
        features = list(features)
        for resample in self.resample.values():
            height, width = features[-1].shape[2], features[-1].shape[3]
            features.append(resample(features[-1], (height + 1) // 2, (width + 1) // 2))
        for cell in self.cell:
            features = cell(features)
        return features
