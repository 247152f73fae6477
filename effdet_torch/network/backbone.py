"""EfficientNet backbone: image -> P3, P4, P5 (or from another level on), and two choices of the whole model.

timm's `tf_efficientnet_*` models pad like TensorFlow's SAME: with stride 2 on even sizes at the bottom and right only.

Source: EfficientNet (arXiv:1905.11946); the official code's `efficientnet_builder` and `efficientnet_lite_builder`.
"""

from __future__ import annotations

from collections.abc import Mapping

import timm
from torch import nn

from effdet_torch.architecture.backbone import BACKBONE_TOP, timm_name
from effdet_torch.config import Activation

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01  # TensorFlow writes it as decay 0.99
ACTIVATIONS: Mapping[Activation, type[nn.Module]] = {
    "swish": nn.SiLU,
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "hswish": nn.Hardswish,
    "mish": nn.Mish,
}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with the official epsilon and momentum."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def create_backbone(
    name: str, activation: Activation = "swish", drop_path_rate: float = 0.0, min_level: int = 3
) -> nn.Module:
    """Build an untrained EfficientNet without its classifier; nothing is downloaded.

    Its forward maps images (B, 3, H, W) to the list of P`min_level` to P5; level l is (B, C_l, ceil(H / 2^l),
    ceil(W / 2^l)), with C_l from `architecture.backbone_channels`.

    Args:
        name: TensorFlow scope of the backbone, a key of `architecture.BACKBONES`.
        activation: after every batch norm except those of projections, and inside squeeze-excite.
        drop_path_rate: probability of skipping the last residual block in training; earlier blocks are skipped
            proportionally less.
        min_level: finest level of the result, 1 to 5.
    """
    backbone: nn.Module = timm.create_model(
        timm_name(name),
        pretrained=False,
        features_only=True,
        out_indices=tuple(range(min_level - 1, BACKBONE_TOP)),  # index l - 1 has the reduction 2^l
        act_layer=ACTIVATIONS[activation],
        bn_eps=BATCH_NORM_EPS,
        bn_momentum=BATCH_NORM_MOMENTUM,
        drop_path_rate=drop_path_rate,
    )
    return backbone
