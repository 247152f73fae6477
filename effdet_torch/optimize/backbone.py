"""The backbone for inference."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from effdet_torch.network.backbone import Backbone, InvertedResidual
from effdet_torch.network.layers import ActivatedNorm, SqueezeExcite, StridedConv
from effdet_torch.optimize.layers import FusedSqueezeExcite, WidenedConv, folded, in_place


class FusedBlock(nn.Sequential):
    """`InvertedResidual` without batch norms; names of steps as there."""

    def __init__(self, block: nn.Module, widen: bool) -> None:
        assert isinstance(block, InvertedResidual)
        steps, layers = OrderedDict[str, nn.Module](), list(block.named_children())
        for (name, layer), (norm_name, norm) in zip(layers, [*layers[1:], ("", None)], strict=True):
            if isinstance(layer, SqueezeExcite):
                steps[name] = FusedSqueezeExcite(layer)
            elif isinstance(layer, nn.Conv2d):
                conv = folded(layer, norm)
                steps[name] = WidenedConv(conv) if widen and isinstance(conv, StridedConv) else conv
                if isinstance(norm, ActivatedNorm):
                    steps[norm_name] = in_place(norm.act)
        super().__init__(steps)
        self.adds = block.adds

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        output = features
        for step in self:
            output = step(output)
        return output.add_(features) if self.adds else output


class FusedBackbone(Backbone):
    """`Backbone` of fused blocks.

    Args:
        backbone: in eval mode.
        widen: see `fuse`.
    """

    def __init__(self, backbone: Backbone, widen: bool) -> None:
        nn.Module.__init__(self)
        assert isinstance(backbone.bn1, ActivatedNorm)
        self.conv_stem, self.bn1 = folded(backbone.conv_stem, backbone.bn1), in_place(backbone.bn1.act)
        stages = [nn.Sequential(*(FusedBlock(block, widen) for block in stage.children())) for stage in backbone.blocks]
        self.blocks = nn.Sequential(*stages)
        self.output_blocks = backbone.output_blocks
