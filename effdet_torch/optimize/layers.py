"""Layers for inference: batch norms folded into convolutions, everything else in place.

In eval mode a batch norm is y = x * scale + offset with scale = gamma / sqrt(variance + epsilon): the scale goes into
the kernel in front of it, the offset into the bias. Both are computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.network.layers import SqueezeExcite, StridedConv, same_padding
from effdet_torch.network.segmentation import TransposedConv


def folded(conv: nn.Conv2d, norm: nn.Module | None = None, factor: Tensor | None = None) -> nn.Conv2d:
    """Return a convolution that also does the work of the batch norm behind it, and multiplies by a factor.

    Args:
        conv: its tensors are shared where nothing changes them.
        norm: a batch norm; anything else adds no work.
        factor: () or (out_channels,), a fusion weight.
    """
    return _like(conv, *_with_norm(conv.weight.detach(), conv.bias, norm, factor))


def folded_transpose(conv: nn.Module, norm: nn.Module | None = None) -> TransposedConv:
    """Return a transposed convolution that also does the work of the batch norm behind it; see `folded`."""
    assert isinstance(conv, TransposedConv)
    weight, bias = _with_norm(conv.weight.detach().transpose(0, 1), conv.bias, norm)  # outputs first
    with torch.device("meta"):
        result = TransposedConv(conv.in_channels, conv.out_channels, bias=bias is not None)
    result.weight = nn.Parameter(weight.transpose(0, 1).contiguous(), requires_grad=False)
    result.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return result


def _with_norm(
    weight: Tensor, bias: Tensor | None, norm: nn.Module | None, factor: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return a kernel (out_channels, ...) and a bias that include a batch norm and a factor; see `folded`."""
    dtype, bias = weight.dtype, None if bias is None else bias.detach()
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
        offset = norm.bias.detach().double() - norm.running_mean.double() * scale
        weight, bias = _scaled(weight, bias, scale)
        bias = offset if bias is None else bias + offset
    if factor is not None:
        weight, bias = _scaled(weight, bias, factor.double().expand(weight.shape[0]))
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution of the same kind with these tensors."""
    names = "in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"
    settings: dict[str, Any] = {name: getattr(conv, name) for name in names}
    result = type(conv)(**settings, bias=bias is not None, device="meta")
    result.weight = nn.Parameter(weight, requires_grad=False)
    result.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return result


def _scaled(weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Multiply the outputs of a convolution, in float64; `scale` is (out_channels,)."""
    return weight.double() * scale[:, None, None, None], None if bias is None else bias.double() * scale


def in_place(activation: nn.Module) -> nn.Module:
    """Return the same activation, which overwrites its input."""
    return type(activation)(inplace=True)


class WidenedConv(StridedConv):
    """A depthwise `StridedConv` that pads without a copy of its input.

    PyTorch pads both ends alike, so the kernel gets one row of zeros at the top and one column at the left: the same
    sums as with one row less of padding there. On a CPU that takes about half the time; a dense kernel would only get
    larger.
    """

    def __init__(self, conv: StridedConv) -> None:
        super().__init__(
            *(conv.in_channels, conv.out_channels, conv.kernel_size[0] + 1, conv.stride[0]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight = nn.Parameter(F.pad(conv.weight, [1, 0, 1, 0]), requires_grad=False)
        self.bias = conv.bias

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        kernel_size, stride = self.kernel_size[0] - 1, self.stride[0]
        y_padding, x_padding = (1 + same_padding(size, kernel_size, stride) // 2 for size in features.shape[2:])
        return F.conv2d(features, self.weight, self.bias, self.stride, (y_padding, x_padding), groups=self.groups)


class FusedSqueezeExcite(nn.Module):
    """`SqueezeExcite` that overwrites its input."""

    def __init__(self, layer: SqueezeExcite) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = folded(layer.conv_reduce), folded(layer.conv_expand)
        self.act1 = in_place(layer.act1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        means = features.mean((2, 3), keepdim=True)
        return features.mul_(self.conv_expand(self.act1(self.conv_reduce(means))).sigmoid_())
