"""Layers that the backbone, the BiFPN and the heads share, with the parameter names of timm.

Source: EfficientNet (arXiv:1905.11946); EfficientDet (arXiv:1911.09070); Squeeze-and-Excitation (arXiv:1709.01507);
stochastic depth (arXiv:1603.09382).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import Activation, BackboneStyle, EfficientDetConfig

TRUNCATED_NORMAL_STD = 0.87962566103423978  # of a standard normal cut off at +-2
BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01  # TensorFlow writes it as decay 0.99
ACTIVATIONS: Mapping[Activation, type[nn.Module]] = {
    "swish": nn.SiLU,
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "hswish": nn.Hardswish,
    "mish": nn.Mish,
}


class Style(NamedTuple):
    """How a backbone pads convolutions with a stride, and the epsilon of its batch norms."""

    is_symmetric: bool = False
    epsilon: float = BATCH_NORM_EPS


STYLES: Mapping[BackboneStyle, Style] = {"tensorflow": Style(), "pytorch": Style(is_symmetric=True, epsilon=1e-5)}


def batch_norm(channels: int, epsilon: float = BATCH_NORM_EPS) -> nn.BatchNorm2d:
    """Return a batch norm with the official momentum."""
    return nn.BatchNorm2d(channels, eps=epsilon, momentum=BATCH_NORM_MOMENTUM)


class ActivatedNorm(nn.BatchNorm2d):
    """Batch norm and the activation after it; the keys are those of the norm alone.

    As in timm. `nn.SyncBatchNorm.convert_sync_batchnorm` does not know the activation, and would leave it out.
    """

    def __init__(self, channels: int, activation: Activation, epsilon: float = BATCH_NORM_EPS) -> None:
        super().__init__(channels, eps=epsilon, momentum=BATCH_NORM_MOMENTUM)
        self.act = ACTIVATIONS[activation](inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        # TorchScript cannot call the forward of a base class.
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        normalized = F.batch_norm(features, *statistics, *affine, self.training, self.momentum, self.eps)
        activated: Tensor = self.act(normalized)
        return activated


class StridedConv(nn.Conv2d):
    """Convolution with a stride and TensorFlow's SAME padding, which gives ceil(size / stride) rows and columns.

    An odd row of padding goes to the bottom, an odd column to the right: on even sizes nothing is added at the top.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        bottom = same_padding(features.shape[2], self.kernel_size[0], self.stride[0])
        right = same_padding(features.shape[3], self.kernel_size[1], self.stride[1])
        padded = F.pad(features, [right // 2, right - right // 2, bottom // 2, bottom - bottom // 2])
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def same_padding(size: int, kernel_size: int, stride: int) -> int:
    """Return how many rows SAME pads in all, at both ends together."""
    last_start = (size - 1) // stride * stride
    return max(last_start + kernel_size - size, 0)


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    *,
    is_symmetric: bool = False,
) -> nn.Conv2d:
    """Return a convolution without a bias, padded like TensorFlow's SAME or symmetrically; `kernel_size` is odd.

    Both give ceil(size / stride) rows and columns, and are the same where the stride is 1.
    """
    if stride > 1 and not is_symmetric:
        return StridedConv(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in 0..1 that is computed from the means of all channels."""

    def __init__(self, channels: int, squeezed_channels: int, activation: Activation) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed_channels, 1)
        self.act1 = ACTIVATIONS[activation](inplace=True)
        self.conv_expand = nn.Conv2d(squeezed_channels, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        means = features.mean((2, 3), keepdim=True)
        gates: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(means))))
        return features * gates


class DropPath(nn.Module):
    """In training, replace each image's features by 0 with the probability `drop_prob`, and scale the others up."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        if not self.training or self.drop_prob == 0.0:
            return features
        kept = 1.0 - self.drop_prob
        factors = features.new_empty([features.shape[0], 1, 1, 1]).bernoulli_(kept)
        return features * factors.div_(kept)


class ConvBatchNorm(nn.Module):
    """Convolution that keeps the size, then a batch norm if wanted; no activation."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, bias: bool, norm: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.bn = batch_norm(out_channels) if norm else nn.Identity()
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


def node_conv(config: EfficientDetConfig, out_channels: int, *, bias: bool, norm: bool = False) -> nn.Module:
    """Build the 3x3 convolution of a node or a head, separable unless the config says otherwise."""
    convolution = SeparableConv if config.separable_conv else partial(ConvBatchNorm, kernel_size=3)
    return convolution(config.fpn_channels, out_channels, bias=bias, norm=norm)


def _variance_scaling_(kernel: Tensor, fan_in: int) -> None:
    """Fill with TensorFlow's `variance_scaling`: a normal cut off at two sigmas, with variance 1 / fan_in."""
    std = 1 / math.sqrt(fan_in) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std)
