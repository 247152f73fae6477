"""EfficientNet backbone: image -> P3, P4, P5 (or from another level on).

The names of all parts, and so the keys of the state_dict, are those of timm's `tf_efficientnet_*` models.

Source: EfficientNet (arXiv:1905.11946); the official code's `efficientnet_builder` and `efficientnet_lite_builder`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from effdet_torch.architecture.backbone import Block, Taps, stem_channels, used_blocks, usual_taps
from effdet_torch.config import Activation
from effdet_torch.network.layers import ActivatedNorm, DropPath, SqueezeExcite, batch_norm, conv


class InvertedResidual(nn.Sequential):
    """One block: its steps in a row, and the input added where the output has the same shape."""

    def __init__(self, block: Block, activation: Activation, drop_prob: float) -> None:
        middle, squeezed = block.mid_channels, block.squeeze_excite_channels
        norm, projection, last_norm = ("bn2", "conv_pwl", "bn3") if block.expands else ("bn1", "conv_pw", "bn2")
        steps = OrderedDict[str, nn.Module]()
        if block.expands:
            steps["conv_pw"] = conv(block.in_channels, middle)
            steps["bn1"] = ActivatedNorm(middle, activation)
        steps["conv_dw"] = conv(middle, middle, block.kernel_size, block.stride, groups=middle)
        steps[norm] = ActivatedNorm(middle, activation)
        if squeezed:
            steps["se"] = SqueezeExcite(middle, squeezed, activation)
        steps[projection] = conv(middle, block.out_channels)
        steps[last_norm] = batch_norm(block.out_channels)
        adds = block.stride == 1 and block.in_channels == block.out_channels
        if adds:
            steps["drop_path"] = DropPath(drop_prob)
        super().__init__(steps)
        self.adds = adds

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        output = features
        for step in self:
            output = step(output)
        return output + features if self.adds else output


class Backbone(nn.Module):
    """An untrained EfficientNet without its classifier, initialised for training from scratch.

    Args:
        name: TensorFlow scope of the backbone, a key of `architecture.BACKBONES`.
        activation: after every batch norm except those of projections, and inside squeeze-excite.
        drop_path_rate: probability of skipping the last residual block in training; earlier blocks are skipped
            proportionally less.
        min_level: finest level of the result, 1 to 5.
        taps: (stage, block) of the blocks that give the levels; empty for the last of their stages. Those behind the
            last one are left out.
    """

    def __init__(
        self,
        name: str,
        activation: Activation = "swish",
        drop_path_rate: float = 0.0,
        min_level: int = 3,
        taps: Taps = (),
    ) -> None:
        super().__init__()
        channels, blocks = stem_channels(name), used_blocks(name, taps)
        self.conv_stem = conv(3, channels, kernel_size=3, stride=2)
        self.bn1: nn.Module = ActivatedNorm(channels, activation)
        stages = [nn.Sequential() for _ in range(blocks[-1].stage + 1)]
        for block in blocks:
            drop_prob = drop_path_rate * block.flat / len(blocks)
            stages[block.stage].append(InvertedResidual(block, activation, drop_prob))
        self.blocks = nn.Sequential(*stages)
        outputs = taps or usual_taps(name, min_level)
        self.output_blocks = [block.flat for block in blocks if (block.stage, block.block) in outputs]
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to the list of P`min_level` to P5.

        Level l is (B, C_l, ceil(H / 2^l), ceil(W / 2^l)), with C_l from `architecture.backbone_channels`.
        """
        features = self.bn1(self.conv_stem(images))
        levels: list[Tensor] = []
        number = 0
        for stage in self.blocks:
            for block in stage:  # type: ignore[attr-defined]
                features = block(features)
                if number in self.output_blocks:
                    levels.append(features)
                number += 1
        return levels


def initialise(backbone: nn.Module) -> None:
    """Draw the kernels from a normal of variance 2 / fan-out; the fan-out of a depthwise kernel is its size.

    Tensors on the meta device have no values, and drawing these would load torch's compiler, in half a second.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
