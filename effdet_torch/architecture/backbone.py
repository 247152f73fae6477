"""What follows from a backbone's name: its blocks and their channels, without torch.

These lists are the index sets of the mapping tables and the plan of the PyTorch model, so the two cannot disagree.

Source: EfficientNet (arXiv:1905.11946) table 1; the official code's `efficientnet_builder` and
`efficientnet_lite_builder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from effdet_torch.errors import ConfigError

# Backbone -> (width coefficient, depth coefficient).
BACKBONES: Mapping[str, tuple[float, float]] = {
    "efficientnet-b0": (1.0, 1.0),
    "efficientnet-b1": (1.0, 1.1),
    "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4),
    "efficientnet-b4": (1.4, 1.8),
    "efficientnet-b5": (1.6, 2.2),
    "efficientnet-b6": (1.8, 2.6),
    "efficientnet-b7": (2.0, 3.1),
    "efficientnet-b8": (2.2, 3.6),
    "efficientnet-l2": (4.3, 5.3),
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
    "efficientnet-lite3": (1.2, 1.4),
    "efficientnet-lite4": (1.4, 1.8),
}

# Stage -> (repeats, kernel size, stride, expand ratio, output channels) of the unscaled network.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STAGE_OF_LEVEL = {1: 0, 2: 1, 3: 2, 4: 4, 5: 6}
BACKBONE_TOP = max(STAGE_OF_LEVEL)
Taps = tuple[tuple[int, int], ...]  # (stage, block) of the blocks that feed the pyramid, fine to coarse
STEM_CHANNELS = 32
SQUEEZE_EXCITE_RATIO = 0.25


@dataclass(frozen=True)
class Block:
    """One inverted residual (MBConv) block: `flat` is TensorFlow's number, (`stage`, `block`) is timm's."""

    flat: int
    stage: int
    block: int
    kernel_size: int
    stride: int
    in_channels: int
    mid_channels: int
    out_channels: int
    squeeze_excite_channels: int  # 0: the block has none (lite)

    @property
    def expands(self) -> bool:
        """Whether the block begins with a 1x1 expansion convolution."""
        return self.mid_channels != self.in_channels


def timm_name(backbone: str) -> str:
    """Return what timm calls a backbone: the models with TensorFlow's padding and normalisation."""
    return f"tf_{backbone.replace('-', '_')}"


def is_lite(backbone: str) -> bool:
    """Whether a backbone is an EfficientNet-lite: no squeeze-excite, unscaled stem and first / last repeats."""
    return "-lite" in backbone


def stem_channels(backbone: str) -> int:
    """Return the output channels of the first convolution."""
    return STEM_CHANNELS if is_lite(backbone) else _round_channels(STEM_CHANNELS * BACKBONES[backbone][0])


def backbone_channels(backbone: str) -> dict[int, int]:
    """Return {level: channels} of the features that the backbone gives: P1 to P5."""
    width = BACKBONES[backbone][0]
    return {level: _round_channels(STAGES[stage][-1] * width) for level, stage in STAGE_OF_LEVEL.items()}


@cache
def backbone_blocks(backbone: str) -> tuple[Block, ...]:
    """Return the inverted residual blocks of a backbone in execution order."""
    width, depth = BACKBONES[backbone]
    blocks: list[Block] = []
    channels = stem_channels(backbone)
    for stage, (repeats, kernel_size, stride, expand_ratio, out_channels) in enumerate(STAGES):
        unscaled = is_lite(backbone) and stage in (0, len(STAGES) - 1)
        for block in range(repeats if unscaled else math.ceil(repeats * depth)):
            blocks.append(
                Block(
                    flat=len(blocks),
                    stage=stage,
                    block=block,
                    kernel_size=kernel_size,
                    stride=stride if block == 0 else 1,
                    in_channels=channels,
                    mid_channels=channels * expand_ratio,
                    out_channels=_round_channels(out_channels * width),
                    squeeze_excite_channels=0 if is_lite(backbone) else max(1, int(channels * SQUEEZE_EXCITE_RATIO)),
                )
            )
            channels = blocks[-1].out_channels
    return tuple(blocks)


def used_blocks(backbone: str, taps: Taps = ()) -> tuple[Block, ...]:
    """Return the blocks that a detector computes: all up to the one that feeds the coarsest level.

    Args:
        backbone: a key of `BACKBONES`.
        taps: blocks that feed the pyramid; empty for the last of their stages.
    """
    blocks = backbone_blocks(backbone)
    return tuple(block for block in blocks if not taps or (block.stage, block.block) <= taps[-1])


def usual_taps(backbone: str, min_level: int) -> Taps:
    """Return the last block of every stage that feeds a level, from `min_level` to the coarsest."""
    last = {block.stage: block.block for block in backbone_blocks(backbone)}
    return tuple((stage, last[stage]) for level, stage in STAGE_OF_LEVEL.items() if level >= min_level)


def require_taps(backbone: str, min_level: int, taps: Taps) -> None:
    """Check that taps are blocks of the stages that feed the levels.

    Raises:
        ConfigError: They are not.
    """
    last = usual_taps(backbone, min_level)
    fit = len(taps) == len(last) and all(
        stage == own and 0 <= block <= most for (stage, block), (own, most) in zip(taps, last, strict=True)
    )
    if not fit:
        expected = ", ".join(f"({stage}, 0 to {most})" for stage, most in last)
        raise ConfigError(f"taps is {taps!r}; expected (stage, block) of {backbone} for every level: {expected}")


def feature_sizes(height: int, width: int, min_level: int, max_level: int) -> dict[int, tuple[int, int]]:
    """Return {level: (height, width)} of the feature maps for an image; every level halves, rounding up.

    TorchScript compiles this function as a part of the model, hence the plain integers.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        min_level: finest level to return.
        max_level: coarsest level to return.

    Raises:
        ConfigError: A level could halve only one side, because the other has one row left; the official code refuses
            this too.
    """
    sizes: dict[int, tuple[int, int]] = {}
    rows, columns = height, width
    for level in range(1, max_level + 1):
        next_rows, next_columns = (rows + 1) // 2, (columns + 1) // 2
        if level > min_level and bool(next_rows < rows) != bool(next_columns < columns):
            raise ConfigError(
                f"image size {width}x{height} (width x height) is too small for levels {min_level} to {max_level}: "
                f"P{level - 1} is {columns}x{rows} and only one side can be halved; "
                f"use at least {(1 << (max_level - 1)) + 1} pixels per side"
            )
        rows, columns = next_rows, next_columns
        if level >= min_level:
            sizes[level] = (rows, columns)
    return sizes


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % (EfficientNet's `round_filters`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
