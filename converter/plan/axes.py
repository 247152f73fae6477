"""Index sets of the mapping tables: what rows can repeat over, and the quantities that they can name.

`mappings/README.md` lists them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from effdet_torch.architecture.backbone import BACKBONE_TOP, FORMS, backbone_channels, stem_channels, used_blocks
from effdet_torch.architecture.heads import CLASS_BIAS
from effdet_torch.config import BackboneConfig, EfficientDetConfig


def backbone_axes(config: BackboneConfig | EfficientDetConfig) -> dict[str, list[dict[str, Any]]]:
    """Return {axis: [{placeholder or quantity: value}]} of a backbone."""
    taps = () if isinstance(config, BackboneConfig) else config.taps
    return {
        "block": [
            {**asdict(block), **{form: block.form == form for form in FORMS}}
            for block in used_blocks(config.backbone, taps)
        ]
    }


def backbone_constants(config: BackboneConfig | EfficientDetConfig) -> dict[str, Any]:
    """Return the quantities that every row of the backbone's table may use."""
    return {"backbone": config.backbone, "stem_channels": stem_channels(config.backbone)}


def detector_axes(config: EfficientDetConfig) -> dict[str, list[dict[str, Any]]]:
    """Return {axis: [{placeholder or quantity: value}]} of a detector."""
    per_channel = config.fusion.startswith("channel_")
    nodes = [
        {
            "cell": node.cell,
            "node": node.index,
            "feature": node.feature,
            "num_inputs": len(node.inputs),
            "has_scalar_weights": config.fusion != "sum" and not per_channel,
            "has_channel_weights": per_channel,
        }
        for node in config.nodes
    ]
    node_inputs = [
        {"cell": node.cell, "node": node.index, "feature": node.feature, **asdict(node_input)}
        for node in config.nodes
        for node_input in node.inputs
    ]
    predictions = {"class": (config.num_classes, CLASS_BIAS), "box": (4, 0.0)} if config.detects else {}
    return {
        **backbone_axes(config),
        "node": nodes,
        "node_input": node_inputs,
        "head": [
            {"head": head, "predict_channels": config.anchors_per_location * per_anchor, "predict_bias": bias}
            for head, (per_anchor, bias) in predictions.items()
        ],
        "repeat": [
            {"repeat": repeat, "is_residual": repeat > 0 and config.survival_prob > 0}
            for repeat in range(config.head_repeats)
        ],
        "extra_level": [
            {"level": level, "level_index": index} for index, level in enumerate(config.levels) if level > BACKBONE_TOP
        ],
        "level": [{"level": level, "level_index": index} for index, level in enumerate(config.levels)],
        "upsampling": [
            {"place": place, "is_first": place == 0, "in_channels": config.fpn_channels * (1 if place == 0 else 2)}
            for place in range(len(config.levels) - 1 if config.segments else 0)
        ],
        "unfinished_head": [
            {"place": place, "suffix": f"_{place}" if place else ""}
            for place in range(0 if config.segments else len(config.levels) - 1)
        ],
    }


def detector_constants(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the quantities that every row of the detector's table may use."""
    p5_channels = backbone_channels(config.backbone)[BACKBONE_TOP]
    return {
        **backbone_constants(config),
        "p5_channels": p5_channels,
        "fpn_channels": config.fpn_channels,
        "p6_index": BACKBONE_TOP + 1 - config.min_level,
        "joined_channels": 2 * config.fpn_channels,
        "segments": config.segments,
        "seg_num_classes": config.seg_num_classes,
        "last_place": len(config.levels) - 1,
        "resampling_has_bn": config.apply_bn_for_resampling,
        "separable": config.separable_conv,
        "activates_last": config.conv_bn_act_pattern,
        "p6_needs_conv": config.max_level > BACKBONE_TOP and p5_channels != config.fpn_channels,
    }
