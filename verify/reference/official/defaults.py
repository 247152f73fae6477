"""The official defaults, as far as the reference computes with them, and what differs from variant to variant.

Source: the official code's `hparams_config` and `efficientnet_builder`, 2025-03; EfficientDet (arXiv:1911.09070)
table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "act_type": "swish",
    "anchor_scale": 4.0,
    "apply_bn_for_resampling": True,
    "aspect_ratios": (1.0, 2.0, 0.5),
    "backbone_config": None,
    "conv_after_downsample": False,
    "conv_bn_act_pattern": False,
    "fpn_config": None,
    "fpn_name": None,
    "fpn_weight_method": None,
    "heads": ("object_detection",),
    "max_level": 7,
    "mean_rgb": (123.675, 116.28, 103.53),
    "min_level": 3,
    "num_classes": 90,
    "num_scales": 3,
    "scale_range": False,
    "seg_num_classes": 3,
    "separable_conv": True,
    "stddev_rgb": (58.395, 57.12, 57.375),
    "survival_prob": None,
}


def _variant(
    backbone: str, size: int, filters: int, cells: int, repeats: int, anchor_scale: float = 4.0, **other: Any
) -> Mapping[str, Any]:
    return {
        "backbone_name": f"efficientnet-{backbone}",
        "image_size": size,
        "fpn_num_filters": filters,
        "fpn_cell_repeats": cells,
        "box_class_repeats": repeats,
        "anchor_scale": anchor_scale,
        **other,
    }


_LITE: Mapping[str, Any] = {"act_type": "relu6", "fpn_weight_method": "sum", "mean_rgb": 127.0, "stddev_rgb": 128.0}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    # backbone, image size, BiFPN filters, cells, head repeats, anchor scale
    "d0": _variant("b0", 512, 64, 3, 3),
    "d1": _variant("b1", 640, 88, 4, 3),
    "d2": _variant("b2", 768, 112, 5, 3),
    "d3": _variant("b3", 896, 160, 6, 4),
    "d4": _variant("b4", 1024, 224, 7, 4),
    "d5": _variant("b5", 1280, 288, 7, 4),
    "d6": _variant("b6", 1280, 384, 8, 5, fpn_weight_method="sum"),
    "d7": _variant("b6", 1536, 384, 8, 5, 5.0, fpn_weight_method="sum"),
    "d7x": _variant("b7", 1536, 384, 8, 5, fpn_weight_method="sum", max_level=8),
    "lite0": _variant("lite0", 320, 64, 3, 3, 3.0, **_LITE),
    "lite1": _variant("lite1", 384, 88, 4, 3, 3.0, **_LITE),
    "lite2": _variant("lite2", 448, 112, 5, 3, 3.0, **_LITE),
    "lite3": _variant("lite3", 512, 160, 6, 4, **_LITE),
    "lite3x": _variant("lite3", 640, 200, 6, 4, 3.0, **_LITE),
    "lite4": _variant("lite4", 640, 224, 7, 4, **_LITE),
}

BACKBONES = tuple(
    f"efficientnet-{size}" for size in (*(f"b{n}" for n in range(9)), "l2", *(f"lite{n}" for n in range(5)))
)

# A stage of the unscaled backbone, as `backbone_config` lists it.
BLOCK_ARGS = (
    *("kernel_size", "num_repeat", "input_filters", "output_filters", "expand_ratio", "id_skip"),
    *("strides", "se_ratio", "conv_type", "fused_conv", "super_pixel", "condconv"),
)
BLOCKS = tuple(
    (kernel, repeats, inputs, outputs, expand, True, [stride, stride], 0.25, 0, 0, 0, False)
    for kernel, repeats, inputs, outputs, expand, stride in (
        (3, 1, 32, 16, 1, 1),
        (3, 2, 16, 24, 6, 2),
        (5, 2, 24, 40, 6, 2),
        (3, 3, 40, 80, 6, 2),
        (5, 3, 80, 112, 6, 1),
        (5, 4, 112, 192, 6, 2),
        (3, 1, 192, 320, 6, 1),
    )
)
