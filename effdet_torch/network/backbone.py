"""EfficientNet backbone: image -> P3, P4, P5 (or from another level on).

The names of all parts, and so the keys of the state_dict, are those of timm's `tf_efficientnet_*` models.

Source: EfficientNet (arXiv:1905.11946); the official code's `efficientnet_builder` and `efficientnet_lite_builder`.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from effdet_torch.architecture.backbone import (
    DEPTHWISE,
    FUSED,
    INVERTED,
    SINGLE,
    Block,
    Taps,
    stem_channels,
    used_blocks,
    usual_taps,
)
from effdet_torch.config import Activation, BackboneStyle
from effdet_torch.network.layers import STYLES, ActivatedNorm, DropPath, SqueezeExcite, Style, batch_norm, conv


def _into_middle(block: Block, activation: Activation, style: Style) -> OrderedDict[str, nn.Module]:
    """Return the steps up to the channels in the middle of a block."""
    middle, symmetric = block.mid_channels, style.is_symmetric
    steps = OrderedDict[str, nn.Module]()
    if block.form == FUSED:
        steps["conv_exp"] = conv(block.in_channels, middle, block.kernel_size, block.stride, is_symmetric=symmetric)
        steps["bn1"] = ActivatedNorm(middle, activation, style.epsilon)
        return steps
    if block.form == INVERTED:
        steps["conv_pw"] = conv(block.in_channels, middle)
        steps["bn1"] = ActivatedNorm(middle, activation, style.epsilon)
    steps["conv_dw"] = conv(middle, middle, block.kernel_size, block.stride, groups=middle, is_symmetric=symmetric)
    steps["bn2" if block.form == INVERTED else "bn1"] = ActivatedNorm(middle, activation, style.epsilon)
    return steps


# Form of a block -> (projection, batch norm after it).
PROJECTIONS = {DEPTHWISE: ("conv_pw", "bn2"), INVERTED: ("conv_pwl", "bn3"), FUSED: ("conv_pwl", "bn2")}


class InvertedResidual(nn.Sequential):
    """One block: its steps in a row, and the input added where the output has the same shape."""

    def __init__(self, block: Block, activation: Activation, drop_prob: float, style: Style) -> None:
        middle, outputs, squeezed = block.mid_channels, block.out_channels, block.squeeze_excite_channels
        steps = OrderedDict[str, nn.Module]()
        if block.form == SINGLE:
            sizes = block.in_channels, outputs, block.kernel_size, block.stride
            steps["conv"] = conv(*sizes, is_symmetric=style.is_symmetric)
            steps["bn1"] = ActivatedNorm(outputs, activation, style.epsilon)
        else:
            steps = _into_middle(block, activation, style)
            if squeezed:
                steps["se"] = SqueezeExcite(middle, squeezed, activation)
            projection, norm = PROJECTIONS[block.form]
            steps[projection] = conv(middle, outputs)
            steps[norm] = batch_norm(outputs, style.epsilon)
        if block.adds:
            steps["drop_path"] = DropPath(drop_prob)
        super().__init__(steps)
        self.adds = block.adds

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        output = features
        for step in self:
            output = step(output)
        return output + features if self.adds else output


class Backbone(nn.Module):
    """An untrained EfficientNet without its classifier, initialised for training from scratch.

    Args:
        name: TensorFlow scope of the backbone, a key of `architecture.BACKBONES`, or one of `PACKAGE_BACKBONES`.
        activation: after every batch norm except those of projections, and inside squeeze-excite.
        drop_path_rate: probability of skipping the last residual block in training; earlier blocks are skipped
            proportionally less.
        min_level: finest level of the result, 1 to 5.
        style: whose padding and epsilon.
        taps: (stage, block) of the blocks that give the levels; empty for the last of their stages. Those behind the
            last one are left out.
    """

    def __init__(
        self,
        name: str,
        activation: Activation = "swish",
        drop_path_rate: float = 0.0,
        min_level: int = 3,
        style: BackboneStyle = "tensorflow",
        taps: Taps = (),
    ) -> None:
        super().__init__()
        channels, blocks, how = stem_channels(name), used_blocks(name, taps), STYLES[style]
        self.conv_stem = conv(3, channels, kernel_size=3, stride=2, is_symmetric=how.is_symmetric)
        self.bn1: nn.Module = ActivatedNorm(channels, activation, how.epsilon)
        stages = [nn.Sequential() for _ in range(blocks[-1].stage + 1)]
        for block in blocks:
            drop_prob = drop_path_rate * block.flat / len(blocks)
            stages[block.stage].append(InvertedResidual(block, activation, drop_prob, how))
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
