"""Official hyperparameters that names and shapes of the variables show, for checkpoints without a `config.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
DEFAULT_RATIOS = 3
FIRST_LEVEL = 3  # the official one


def seen_hparams(shapes: Shapes) -> dict[str, Any]:
    """Return what {TensorFlow variable name: shape} shows; of a backbone alone, only its name."""
    seen: dict[str, Any] = {}
    if backbones := _distinct(r"(efficientnet-\w+)/stem/conv2d/kernel", shapes):
        seen["backbone_name"] = backbones[0]
    levels = [int(level) for level in _distinct(r"class_net/class-0-bn-(\d+)/beta", shapes)]
    if levels and {"class_net/class-predict/bias", "box_net/box-predict/bias"} <= shapes.keys():
        seen |= {"min_level": min(levels), "max_level": max(levels)}
        seen |= _heads(shapes, levels[0]) | _pyramid(shapes, len(levels))
    if steps := _distinct(r"segmentation_head/bn_(\d+)/beta", shapes):
        seen["heads"] = ["segmentation", *(["object_detection"] if levels else [])]
        if not levels:  # nothing shows the first of them
            seen |= {"max_level": FIRST_LEVEL + len(steps), "fpn_num_filters": shapes["segmentation_head/bn_0/beta"][0]}
            seen |= _pyramid(shapes, len(steps) + 1)
        last = f"segmentation_head/conv2d_transpose_{len(steps)}/bias"
        seen |= {"seg_num_classes": shapes[last][0]} if last in shapes else {}
    return seen


def _heads(shapes: Shapes, level: int) -> dict[str, Any]:
    class_channels, box_channels = (shapes[f"{head}_net/{head}-predict/bias"][0] for head in ("class", "box"))
    anchors = max(1, box_channels // 4)
    scales, rest = divmod(anchors, DEFAULT_RATIOS)
    return {
        "num_classes": class_channels // anchors,
        **({} if rest else {"num_scales": scales}),  # only the product with the ratios shows
        "box_class_repeats": len(_distinct(r"class_net/class-(\d+)-bn-", shapes)),
        "fpn_num_filters": shapes[f"class_net/class-0-bn-{level}/beta"][0],
    }


def _pyramid(shapes: Shapes, levels: int) -> dict[str, Any]:
    names = [name for name in shapes if name.startswith(("fpn_cells/", "resample_p"))]
    weights = [shapes[name] for name in names if re.search(r"/WSM(_\d+)?$", name)]
    convs, norms = (any(re.search(rf"resample_\w+/{part}/", name) for name in names) for part in ("conv2d", "bn"))
    is_quad = len(_distinct(r"fpn_cells/cell_0/fnode(\d+)/", names)) == 5 * levels - 4
    return {
        "fpn_cell_repeats": len(_distinct(r"fpn_cells/cell_(\d+)/", names)),
        "separable_conv": not any(re.search(r"op_after_combine\d+/conv/kernel$", name) for name in names),
        "fpn_name": "qufpn" if is_quad else "bifpn",
        "fpn_weight_method": "sum" if not weights else "channel_fastattn" if weights[0] else "fastattn",
        "conv_bn_act_pattern": not any(re.search(r"op_after_combine\d+/conv/bias$", name) for name in names),
        "apply_bn_for_resampling": norms or not convs,
    }


def _distinct(pattern: str, names: Iterable[str]) -> list[str]:
    """Return what the pattern's group finds at the beginning of names, each once."""
    return sorted({match[1] for match in map(re.compile(pattern).match, names) if match})
