"""The BiFPN for inference: constant fusion weights, each in the cheapest place."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from effdet_torch.network.bifpn import BiFPN, BiFPNCell, BiFPNNode, Combine, Resample, fusion_weights
from effdet_torch.network.layers import ConvBatchNorm, SeparableConv
from effdet_torch.optimize.layers import folded, in_place


class FusedSeparableConv(nn.Module):
    """`SeparableConv` with its batch norm folded."""

    def __init__(self, layer: SeparableConv) -> None:
        super().__init__()
        self.conv_dw, self.conv_pw = folded(layer.conv_dw), folded(layer.conv_pw, layer.bn)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        convolved: Tensor = self.conv_pw(self.conv_dw(features))
        return convolved


def fused_conv(layer: nn.Module) -> nn.Module:
    """Return what `node_conv` built, with its batch norm folded."""
    if isinstance(layer, SeparableConv):
        return FusedSeparableConv(layer)
    assert isinstance(layer, ConvBatchNorm)
    return folded(layer.conv, layer.bn)


class FusedResample(Resample):
    """`Resample` with its batch norm folded.

    Args:
        layer: in eval mode.
        weight: () or (C,), multiplies the result if there is a convolution to do it.
    """

    def __init__(self, layer: nn.Module, weight: Tensor | None = None) -> None:
        assert isinstance(layer, Resample)
        nn.Module.__init__(self)
        self.conv: nn.Module = nn.Identity()
        if isinstance(layer.conv, ConvBatchNorm):
            self.conv = folded(layer.conv.conv, layer.conv.bn, weight)
        self.pool_first = layer.pool_first
        self.is_symmetric, self.is_bilinear = layer.is_symmetric, layer.is_bilinear


class FusedCombine(nn.Module):
    """`Combine` with constant fusion weights: inside a convolution, or where the features are smallest.

    A weight is never negative, so it may come before or after a max pool; bilinear resampling is linear.
    """

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, Combine)
        super().__init__()
        weights: list[Tensor | None] = [None] * len(layer.resample)
        if (edge_weights := layer.edge_weights) is not None:
            weights = list(fusion_weights(edge_weights.detach().double(), layer.softmax).unbind())
        self.resample = nn.ModuleDict()
        for index, ((key, resample), weight) in enumerate(zip(layer.resample.items(), weights, strict=True)):
            self.resample[key] = FusedResample(resample, weight)
            # A buffer, not a number: torch's compiler, with freezing, gives a convolution the constant of another one.
            buffer = None
            if edge_weights is not None and weight is not None and not isinstance(resample.conv, ConvBatchNorm):
                buffer = weight.reshape(-1, 1, 1).to(edge_weights.dtype)
            self.register_buffer(f"weight{index}", buffer)

    def forward(self, inputs: list[Tensor], height: int, width: int) -> Tensor:
        """Map inputs [(B, C_i, H_i, W_i)] to a new tensor (B, C, height, width), the size of the node's level."""
        total: Tensor | None = None
        for index, resample in enumerate(self.resample.values()):
            features, weight = inputs[index], getattr(self, f"weight{index}")
            if weight is not None and features.shape[2] * features.shape[3] < height * width:
                features, weight = features * weight, None
            resampled = resample(features, height, width)
            if total is not None:
                total = total.add_(resampled) if weight is None else total.addcmul_(resampled, weight)
            elif weight is not None:
                total = resampled * weight
            else:
                total = resampled.clone() if resampled is features else resampled
        assert total is not None
        return total


class FusedNode(BiFPNNode):
    """`BiFPNNode` with a fused sum and convolution."""

    def __init__(self, node: nn.Module) -> None:
        assert isinstance(node, BiFPNNode)
        nn.Module.__init__(self)
        self.offsets, self.level_index = node.offsets, node.level_index
        self.combine = FusedCombine(node.combine)
        steps = OrderedDict(node.after_combine.named_children())
        steps["act"], steps["conv"] = in_place(steps["act"]), fused_conv(steps["conv"])
        self.after_combine = nn.Sequential(steps)


class FusedCell(BiFPNCell):
    """`BiFPNCell` of fused nodes."""

    def __init__(self, cell: nn.Module) -> None:
        assert isinstance(cell, BiFPNCell)
        nn.Module.__init__(self)
        self.outputs, self.fnode = cell.outputs, nn.ModuleList(FusedNode(node) for node in cell.fnode)


class FusedBiFPN(BiFPN):
    """`BiFPN` of fused cells; `bifpn` is in eval mode."""

    def __init__(self, bifpn: BiFPN) -> None:
        nn.Module.__init__(self)
        self.resample = nn.ModuleDict({level: FusedResample(layer) for level, layer in bifpn.resample.items()})
        self.cell = nn.ModuleList(FusedCell(cell) for cell in bifpn.cell)
