"""What follows from a backbone's name: its blocks and their channels, without torch.

These lists are the index sets of the mapping tables and the plan of the PyTorch model, so the two cannot disagree.

Source: EfficientNet (arXiv:1905.11946) table 1; the official code's `efficientnet_builder` and
`efficientnet_lite_builder`; for the backbones that only the `effdet` package has, timm's models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

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

# Backbones that only the `effdet` package has: our name -> (timm's name, width coefficient, depth coefficient).
PACKAGE_BACKBONES: Mapping[str, tuple[str, float, float]] = {
    "efficientnet-edgetpu-s": ("efficientnet_es", 1.0, 1.0),
    "efficientnet-edgetpu-m": ("efficientnet_em", 1.0, 1.1),
    "efficientnetv2-rw-t": ("efficientnetv2_rw_t", 0.8, 0.9),
    "efficientnetv2-rw-s": ("efficientnetv2_rw_s", 1.0, 1.0),
}
# What a block begins with: a depthwise convolution, a 1x1 expansion before it, a full convolution that expands instead
# of both; or it is nothing but one convolution.
FORMS = DEPTHWISE, INVERTED, FUSED, SINGLE = "depthwise", "inverted", "fused", "single"

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
_EDGETPU = (
    (1, 3, 1, 4, 24),
    (2, 3, 2, 8, 32),
    (4, 3, 2, 8, 48),
    (5, 5, 2, 8, 96),
    (4, 5, 1, 8, 144),
    (2, 5, 2, 8, 192),
)
_V2_TINY = (
    (2, 3, 1, 1, 24),
    (4, 3, 2, 4, 48),
    (4, 3, 2, 4, 64),
    (6, 3, 2, 4, 128),
    (9, 3, 1, 6, 160),
    (15, 3, 2, 6, 256),
)
_V2_SMALL = (*_V2_TINY[:-1], (15, 3, 2, 6, 272))
BACKBONE_TOP = 5  # the coarsest level: stride 32
Taps = tuple[tuple[int, int], ...]  # (stage, block) of the blocks that feed the pyramid, fine to coarse
STEM_CHANNELS = 32
SQUEEZE_EXCITE_RATIO = 0.25


class _Design(NamedTuple):
    """What a backbone scales.

    Attributes:
        stages: see `STAGES`.
        forms: of the blocks of the first stages; the others are inverted.
        squeezes: first stage whose blocks have squeeze-excite.
        scaled_ends: whether the coefficients apply to the stem, and to the repeats of the first and last stage.
        stem_channels: output channels of the first convolution.
        plain_first: whether the first stage expands its own output channels, and its blocks do not add their input.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    forms: tuple[str, ...] = (DEPTHWISE,)
    squeezes: int = 0
    scaled_ends: bool = True
    stem_channels: int = STEM_CHANNELS
    plain_first: bool = False


_NEVER = len(STAGES)
_OFFICIAL, _LITE = _Design(), _Design(squeezes=_NEVER, scaled_ends=False)
_EDGE = _Design(_EDGETPU, (FUSED,) * 3, squeezes=_NEVER, plain_first=True)
_DESIGNS: Mapping[str, _Design] = {
    "efficientnet-edgetpu-s": _EDGE,
    "efficientnet-edgetpu-m": _EDGE,
    "efficientnetv2-rw-t": _Design(_V2_TINY, (SINGLE, FUSED, FUSED), squeezes=3, stem_channels=24),
    "efficientnetv2-rw-s": _Design(_V2_SMALL, (FUSED,) * 3, squeezes=3, stem_channels=24),
}


@dataclass(frozen=True)
class Block:
    """One block: `flat` is TensorFlow's number, (`stage`, `block`) is timm's."""

    flat: int
    stage: int
    block: int
    form: str  # one of `FORMS`
    kernel_size: int
    stride: int
    in_channels: int
    mid_channels: int
    out_channels: int
    squeeze_excite_channels: int  # 0: the block has none (lite)
    adds: bool  # its input to its output


def timm_name(backbone: str, style: str = "tensorflow") -> str:
    """Return what timm calls a backbone.

    Args:
        backbone: a key of `BACKBONES` or `PACKAGE_BACKBONES`.
        style: "tensorflow" for the models with TensorFlow's padding and epsilon, "pytorch" for the others.
    """
    if backbone in PACKAGE_BACKBONES:
        return PACKAGE_BACKBONES[backbone][0]
    return f"{'tf_' if style == 'tensorflow' else ''}{backbone.replace('-', '_')}"


def is_lite(backbone: str) -> bool:
    """Whether a backbone is an EfficientNet-lite: no squeeze-excite, unscaled stem and first / last repeats."""
    return "-lite" in backbone


def _design(backbone: str) -> _Design:
    return _DESIGNS.get(backbone, _LITE if is_lite(backbone) else _OFFICIAL)


def _coefficients(backbone: str) -> tuple[float, float]:
    return PACKAGE_BACKBONES[backbone][1:] if backbone in PACKAGE_BACKBONES else BACKBONES[backbone]


def stem_channels(backbone: str) -> int:
    """Return the output channels of the first convolution."""
    design = _design(backbone)
    width = _coefficients(backbone)[0] if design.scaled_ends else 1.0
    return _round_channels(design.stem_channels * width)


def output_stages(backbone: str) -> dict[int, int]:
    """Return {level: the last stage with its stride} of P1 to P5."""
    strides = [stride for _, _, stride, _, _ in _design(backbone).stages]
    levels = [1 + strides[: stage + 1].count(2) for stage in range(len(strides))]
    return {level: stage for stage, level in enumerate(levels)}


def backbone_channels(backbone: str) -> dict[int, int]:
    """Return {level: channels} of the features that the backbone gives: P1 to P5."""
    width, stages = _coefficients(backbone)[0], _design(backbone).stages
    return {level: _round_channels(stages[stage][-1] * width) for level, stage in output_stages(backbone).items()}


@cache
def backbone_blocks(backbone: str) -> tuple[Block, ...]:
    """Return the blocks of a backbone in execution order."""
    (width, depth), design = _coefficients(backbone), _design(backbone)
    blocks: list[Block] = []
    channels = stem_channels(backbone)
    for stage, (repeats, kernel_size, stride, expand_ratio, out_channels) in enumerate(design.stages):
        form = design.forms[stage] if stage < len(design.forms) else INVERTED
        unscaled = not design.scaled_ends and stage in (0, len(design.stages) - 1)
        rounded, is_plain = _round_channels(out_channels * width), design.plain_first and stage == 0
        for block in range(repeats if unscaled else math.ceil(repeats * depth)):
            step = stride if block == 0 else 1
            blocks.append(
                Block(
                    flat=len(blocks),
                    stage=stage,
                    block=block,
                    form=form,
                    kernel_size=kernel_size,
                    stride=step,
                    in_channels=channels,
                    mid_channels=(rounded if is_plain else channels) * expand_ratio,
                    out_channels=rounded,
                    squeeze_excite_channels=max(1, int(channels * SQUEEZE_EXCITE_RATIO))
                    if stage >= design.squeezes
                    else 0,
                    adds=step == 1 and channels == rounded and not is_plain,
                )
            )
            channels = rounded
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
    return tuple((stage, last[stage]) for level, stage in output_stages(backbone).items() if level >= min_level)


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


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below 90 % (EfficientNet's `round_filters`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
