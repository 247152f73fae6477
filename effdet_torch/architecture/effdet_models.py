"""Models that only the `effdet` package has, as data: those of this architecture, and why others are not supported.

Its models with a name that begins with tf_ are the official variants.

Source: the package's `config/model_config.py`, 0.4.1; timm's backbones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# (width, height) in units of the anchor scale, where the official ratios are 2.0 and 0.5.
OWN_RATIOS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
_RATIOS: Mapping[str, Any] = {"aspect_ratios": OWN_RATIOS}
_ROOTS: Mapping[str, Any] = {"aspect_ratios": (1.0, 2.0, 0.5)}
_PYTORCH: Mapping[str, Any] = {"backbone_style": "pytorch", "padding": "symmetric"}
_SAME: Mapping[str, Any] = {**_PYTORCH, **_RATIOS, "padding": "same"}
_PLAIN: Mapping[str, Any] = {**_PYTORCH, **_RATIOS}
_QUAD: Mapping[str, Any] = {**_PLAIN, "fpn_name": "qufpn_upwards"}
_EDGE: Mapping[str, Any] = {**_PYTORCH, **_ROOTS, "activation": "relu", "separable_conv": False}
_V2: Mapping[str, Any] = {**_PYTORCH, **_ROOTS, "resampling": "bilinear"}

# Name -> backbone, image size, BiFPN channels, BiFPN cells, head repeats; other fields of the config.
PACKAGE_MODELS: Mapping[str, tuple[tuple[str, int, int, int, int], Mapping[str, Any]]] = {
    "efficientdet_d0": (("efficientnet-b0", 512, 64, 3, 3), _PLAIN),
    "efficientdet_d1": (("efficientnet-b1", 640, 88, 4, 3), _PLAIN),
    "efficientdet_d2": (("efficientnet-b2", 768, 112, 5, 3), _PLAIN),
    "efficientdet_d3": (("efficientnet-b3", 896, 160, 6, 4), _PLAIN),
    "efficientdet_d4": (("efficientnet-b4", 1024, 224, 7, 4), {**_SAME, "redundant_bias": True}),
    "efficientdet_d5": (("efficientnet-b5", 1280, 288, 7, 4), {**_SAME, "redundant_bias": True}),
    "efficientdet_q0": (("efficientnet-b0", 512, 64, 3, 3), _QUAD),
    "efficientdet_q1": (("efficientnet-b1", 640, 88, 3, 3), {**_QUAD, "resampling": "bilinear"}),
    "efficientdet_q2": (("efficientnet-b2", 768, 112, 4, 3), _QUAD),
    "efficientdet_lite0": (("efficientnet-lite0", 384, 64, 3, 3), {**_SAME, "activation": "relu6"}),
    "efficientdet_es": (("efficientnet-edgetpu-s", 512, 72, 3, 3), _EDGE),
    "efficientdet_em": (("efficientnet-edgetpu-m", 640, 96, 4, 3), _EDGE),
    "efficientdetv2_dt": (("efficientnetv2-rw-t", 768, 128, 5, 3), _V2),
    "efficientdetv2_ds": (("efficientnetv2-rw-s", 1024, 256, 7, 4), _V2),
}
_OTHER_BACKBONE = "its backbone {} is not an EfficientNet of this project: its layers are missing"
# Name -> why it cannot be converted, and what would be needed.
UNSUPPORTED_MODELS: Mapping[str, str] = {
    "efficientdet_w0": "it takes its features from inside the blocks of the backbone; no weights were published",
    **{
        name: _OTHER_BACKBONE.format(backbone)
        for name, backbone in {
            "resdet50": "ResNet-50",
            "cspresdet50": "CSPResNet-50",
            "cspresdext50": "CSPResNeXt-50",
            "cspresdext50pan": "CSPResNeXt-50",
            "cspdarkdet53": "CSPDarkNet-53",
            "cspdarkdet53m": "CSPDarkNet-53",
            "mixdet_m": "MixNet-M",
            "mixdet_l": "MixNet-L",
            "mobiledetv2_110d": "MobileNetV2",
            "mobiledetv2_120d": "MobileNetV2",
            "mobiledetv3_large": "MobileNetV3",
        }.items()
    },
}
