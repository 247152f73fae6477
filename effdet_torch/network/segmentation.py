"""Segmentation head: from the coarsest level of the pyramid up to twice the size of the finest one.

    P7 -> double -> batch norm, activation -> beside P6 -> double -> ... -> beside P3 -> double: one value per class

Source: the official code's `SegmentationHead`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.layers import ActivatedNorm


class TransposedConv(nn.ConvTranspose2d):
    """Transposed 3x3 convolution with stride 2 and TensorFlow's SAME padding: twice as many rows and columns.

    It reverts a convolution that pads at the bottom and on the right only, so the row and the column that are too many
    are the last ones. PyTorch's `padding=1, output_padding=1` would leave out the first ones.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, bias=bias)
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, in_channels, H, W) to (B, out_channels, 2 * H, 2 * W)."""
        height, width = 2 * features.shape[2], 2 * features.shape[3]
        return F.conv_transpose2d(features, self.weight, self.bias, self.stride)[:, :, :height, :width]


class SegmentationHead(nn.Module):
    """Predict a logit for every class at every pixel of a grid that is twice as fine as the finest level."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        channels, steps = config.fpn_channels, range(len(config.levels) - 1)
        self.conv_rep = nn.ModuleList(
            TransposedConv(2 * channels if step else channels, channels, bias=False) for step in steps
        )
        self.bn_rep = nn.ModuleList(ActivatedNorm(channels, config.activation) for _ in steps)
        self.predict = TransposedConv(2 * channels, config.seg_num_classes, bias=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map [(B, C, H_l, W_l)], fine to coarse, each twice the next, to (B, classes, 2 * H_0, 2 * W_0)."""
        joined = features[-1]
        for step, (conv, norm) in enumerate(zip(self.conv_rep, self.bn_rep, strict=True)):
            joined = torch.cat([norm(conv(joined)), features[-2 - step]], dim=1)
        logits: Tensor = self.predict(joined)
        return logits
