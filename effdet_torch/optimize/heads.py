"""The heads for inference: each level's batch norms folded into a copy of the shared convolution."""

from __future__ import annotations

from torch import Tensor, nn

from effdet_torch.network.heads import BatchNormAct, Head, LevelBatchNorms, Residual
from effdet_torch.network.layers import ActivatedNorm, ConvBatchNorm, SeparableConv
from effdet_torch.network.segmentation import SegmentationHead
from effdet_torch.optimize.bifpn import fused_conv
from effdet_torch.optimize.layers import folded, folded_transpose, in_place


class FusedHead(nn.Module):
    """`Head` whose `bn_rep.R.L` is a convolution with its activation, and `conv_rep.R` what all levels share of it."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.conv_rep, self.bn_rep, self.add_rep = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for layer, norms, add in zip(head.conv_rep, head.bn_rep, head.add_rep, strict=True):
            shared, own = _divided(layer)
            self.conv_rep.append(shared)
            self.bn_rep.append(LevelBatchNorms(_with_norm(own, norm) for norm in norms.children()))
            assert isinstance(add, Residual)
            self.add_rep.append(Residual(float(add.adds)))
        self.predict = fused_conv(head.predict)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map [(B, C, H_l, W_l)] to [(B, anchors * outputs, H_l, W_l)], fine to coarse."""
        for conv, norms, add in zip(self.conv_rep, self.bn_rep, self.add_rep, strict=True):
            outputs = norms([conv(level_features) for level_features in features])
            features = [add(output, features[level]) for level, output in enumerate(outputs)]
        return [self.predict(level_features) for level_features in features]


def _with_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    assert isinstance(norm, BatchNormAct)
    return nn.Sequential(folded(conv, norm.bn), in_place(norm.act))


def _divided(layer: nn.Module) -> tuple[nn.Module, nn.Conv2d]:
    """Return the part of a head's convolution that no batch norm can change, and the part that takes it in."""
    if isinstance(layer, SeparableConv):
        return folded(layer.conv_dw), layer.conv_pw
    assert isinstance(layer, ConvBatchNorm)
    return nn.Identity(), layer.conv


class FusedSegmentationHead(SegmentationHead):
    """`SegmentationHead` whose `bn_rep.R` is the transposed convolution with its activation."""

    def __init__(self, head: SegmentationHead) -> None:
        nn.Module.__init__(self)
        self.conv_rep, self.bn_rep = nn.ModuleList(), nn.ModuleList()
        for conv, norm in zip(head.conv_rep, head.bn_rep, strict=True):
            assert isinstance(norm, ActivatedNorm)
            self.conv_rep.append(nn.Identity())
            self.bn_rep.append(nn.Sequential(folded_transpose(conv, norm), in_place(norm.act)))
        self.predict = folded_transpose(head.predict)
