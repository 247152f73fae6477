"""Bidirectional feature pyramid network: P3, P4, P5 -> the fused P3..P7 (P8).

The graph comes from `architecture.bifpn_nodes`; this file only says what a node computes:

    inputs -> [1x1 conv, BN where channels differ] -> max pool or nearest to the node's size
           -> weighted sum -> activation -> separable conv -> BN

Source: EfficientDet (arXiv:1911.09070) section 3; the official code's `FNode`, `OpAfterCombine`, `ResampleFeatureMap`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.architecture import Node, backbone_channels
from effdet_torch.config import EfficientDetConfig, Fusion
from effdet_torch.network.backbone import ACTIVATIONS, batch_norm

FAST_ATTENTION_EPS = 1e-4
TRUNCATED_NORMAL_STD = 0.87962566103423978  # of a standard normal cut off at +-2


def max_pool_same(features: Tensor) -> Tensor:
    """Max pool 3x3 with stride 2 and TensorFlow's SAME padding, which counts as -inf.

    SAME puts one row on either side of an odd size, and a single one at the bottom (right) of an even size. `ceil_mode`
    is the latter: it lets the last window hang over the edge, so no padded copy is made.

    Args:
        features: (B, C, H, W).

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)).
    """
    height, width = features.shape[2], features.shape[3]
    return F.max_pool2d(features, kernel_size=3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)


def fusion_weights(edge_weights: Tensor, softmax: bool, eps: float = FAST_ATTENTION_EPS) -> Tensor:
    """Normalise the learnt weights of a node's inputs.

    Args:
        edge_weights: (number of inputs,), any sign.
        softmax: "attn", softmax(w); otherwise "fastattn", relu(w) / (sum(relu(w)) + eps).
        eps: keeps the division finite when no weight is positive.

    Returns:
        (number of inputs,), none negative.
    """
    if softmax:
        return torch.softmax(edge_weights, dim=0)
    positive = F.relu(edge_weights)
    return positive / (positive.sum() + eps)


class ConvBatchNorm(nn.Module):
    """1x1 convolution and batch norm, without activation."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)
        self.bn = batch_norm(out_channels)
        nn.init.xavier_uniform_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        normalized: Tensor = self.bn(self.conv(features))
        return normalized


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise 1x1 convolution, which has the bias; then a batch norm if wanted."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool, norm: bool = False) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1, groups=in_channels, bias=False)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)
        self.bn = batch_norm(out_channels) if norm else nn.Identity()
        # TensorFlow counts a depthwise kernel's inputs as if every output saw all channels.
        _variance_scaling_(self.conv_dw.weight, fan_in=9 * in_channels)
        _variance_scaling_(self.conv_pw.weight, fan_in=in_channels)
        if self.conv_pw.bias is not None:
            nn.init.zeros_(self.conv_pw.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        convolved: Tensor = self.bn(self.conv_pw(self.conv_dw(features)))
        return convolved


class Resample(nn.Module):
    """Bring features to the channels of the BiFPN, then to the size of a neighbouring level."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else ConvBatchNorm(in_channels, out_channels, bias=bias)

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, height, width).

        Nearest upsampling reads source row floor(i * H / height), as TensorFlow does without half-pixel centres.
        """
        resampled: Tensor = self.conv(features)
        if resampled.shape[2] > height or resampled.shape[3] > width:
            return max_pool_same(resampled)
        if resampled.shape[2] < height or resampled.shape[3] < width:
            return F.interpolate(resampled, size=[height, width], mode="nearest")
        return resampled


class Combine(nn.Module):
    """Resample the inputs of a node and add them, each times its fusion weight unless the fusion is "sum"."""

    def __init__(self, node: Node, channels: int, fusion: Fusion, *, bias: bool) -> None:
        super().__init__()
        weighted = fusion != "sum"
        self.softmax = fusion == "attn"
        self.edge_weights = nn.Parameter(torch.ones(len(node.inputs))) if weighted else None
        self.resample = nn.ModuleDict(
            {str(item.offset): Resample(item.channels, channels, bias=bias) for item in node.inputs}
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Map inputs [(B, C_i, H_i, W_i)] to (B, C, H_0, W_0): the first one has the node's own level."""
        height, width = inputs[0].shape[2], inputs[0].shape[3]
        resampled: list[Tensor] = []
        for index, resample in enumerate(self.resample.values()):
            resampled.append(resample(inputs[index], height, width))
        edge_weights = self.edge_weights
        if edge_weights is not None:
            weights = fusion_weights(edge_weights, self.softmax)
            resampled = [features * weights[index] for index, features in enumerate(resampled)]
        combined = resampled[0] + resampled[1]
        for features in resampled[2:]:
            combined = combined + features
        return combined


class BiFPNNode(nn.Module):
    """One node of a cell: combine, activate, convolve, normalise."""

    def __init__(self, node: Node, config: EfficientDetConfig) -> None:
        super().__init__()
        channels, bias = config.fpn_channels, config.redundant_bias
        self.offsets = [item.offset for item in node.inputs]
        self.combine = Combine(node, channels, config.fusion, bias=bias)
        self.after_combine = nn.Sequential(
            OrderedDict(
                act=ACTIVATIONS[config.activation](),
                conv=SeparableConv(channels, channels, bias=bias, norm=True),
            )
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map all features of the cell so far to the node's (B, C, H, W)."""
        output: Tensor = self.after_combine(self.combine([features[offset] for offset in self.offsets]))
        return output


class BiFPNCell(nn.Module):
    """One top-down and one bottom-up pass."""

    def __init__(self, nodes: Iterable[Node], config: EfficientDetConfig) -> None:
        super().__init__()
        self.num_levels = len(config.levels)
        self.fnode = nn.ModuleList(BiFPNNode(node, config) for node in nodes)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map one feature map per level to one per level, same sizes."""
        features = list(features)  # a copy: the caller's list stays as it is
        for node in self.fnode:
            features.append(node(features))
        # The lowest level ends with the last top-down node, the others are the bottom-up nodes in order.
        return features[-self.num_levels :]


class BiFPN(nn.Module):
    """Extend P3, P4, P5 by coarser levels, then fuse them `config.fpn_cells` times."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        channels = backbone_channels(config.backbone)
        bias = config.redundant_bias
        self.resample = nn.ModuleDict()
        for level_index in range(len(channels), len(config.levels)):
            is_p6 = level_index == len(channels)
            in_channels = channels[max(channels)] if is_p6 else config.fpn_channels
            self.resample[str(level_index)] = Resample(in_channels, config.fpn_channels, bias=bias)
        self.cell = nn.ModuleList(
            BiFPNCell([node for node in config.nodes if node.cell == cell], config) for cell in range(config.fpn_cells)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [P3, P4, P5] to [(B, C, H_l, W_l)] of all levels, fine to coarse; each level halves, rounding up."""
        features = list(features)
        for resample in self.resample.values():
            height, width = features[-1].shape[2], features[-1].shape[3]
            features.append(resample(features[-1], (height + 1) // 2, (width + 1) // 2))
        for cell in self.cell:
            features = cell(features)
        return features


def _variance_scaling_(kernel: Tensor, fan_in: int) -> None:
    """Fill with TensorFlow's `variance_scaling`: a normal cut off at two sigmas, with variance 1 / fan_in."""
    std = 1 / math.sqrt(fan_in) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std)
