"""What the API's names and shapes show, and the quantities of its mapping table.

Source: the API's `ssd_efficientnet_bifpn_feature_extractor`, `bidirectional_feature_pyramid_generators` and
`multiscale_grid_anchor_generator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converter.identify.architecture import DetectorArchitecture
from converter.plan.axes import detector_axes, detector_constants
from converter.plan.ops import Channels
from effdet_torch.architecture.backbone import BACKBONE_TOP, Taps, backbone_blocks, used_blocks, usual_taps
from effdet_torch.architecture.pyramid import Node, bifpn, last_nodes
from effdet_torch.config import EfficientDetConfig

# Name of the API's feature extractor, which begins the names of its pyramid -> backbone.
EXTRACTORS: Mapping[str, str] = {
    **{f"EfficientDet-D{number}": f"efficientnet-b{number}" for number in range(6)},
    "EfficientDet-D6-D7": "efficientnet-b6",
    "EfficientNet-B7_BiFPN": "efficientnet-b7",
}
EXTRACTOR_OF = {backbone: extractor for extractor, backbone in EXTRACTORS.items()}
# Level -> (stage, block) that feeds it: the last blocks of B0's stages, whatever the backbone.
TAP_OF_LEVEL = {1: (0, 0), 2: (1, 1), 3: (2, 1), 4: (4, 2), 5: (6, 0)}
BOX_CODER = (10.0, 10.0, 5.0, 5.0)  # what the API multiplies (ty, tx, th, tw) by, unless its settings say otherwise
TOWERS = {"class": "Class", "box": "Box"}


def taps(backbone: str, min_level: int) -> Taps:
    """Return the blocks that feed the pyramid; empty where they are the usual ones, as in B0."""
    found = tuple(tap for level, tap in TAP_OF_LEVEL.items() if level >= min_level)
    return () if found == usual_taps(backbone, min_level) else found


@dataclass(frozen=True)
class ApiArchitecture(DetectorArchitecture):
    """What names and shapes show of a detector of the API."""

    def describe(self) -> str:
        """Return the architecture in words."""
        return f"TF Object Detection API: {super().describe()}"


def architecture(answers: Mapping[str, Any]) -> DetectorArchitecture:
    """Build the architecture from the answers to the questions of the API's table.

    Raises:
        UnsupportedSourceError: The heads do not predict boxes and classes for a whole number of anchors.
    """
    low = answers["min_level"]
    fixed = {
        "backbone": EXTRACTORS[answers["extractor"]],
        "num_nodes": len(bifpn(range(low, low + answers["num_levels"]))),
        "channel_weights": False,
        "detects": True,
        "segments": False,
        "separable_convs": True,
        "resampling_convs": True,
        "resampling_bns": True,
    }
    return ApiArchitecture.from_answers({**answers, **fixed})


def api_constants(config: EfficientDetConfig) -> dict[str, Any]:
    """Return the quantities that every row of the API's table may use."""
    extra = range(BACKBONE_TOP + 1, config.max_level + 1)
    return {
        **detector_constants(config),
        "extractor": EXTRACTOR_OF.get(config.backbone, "-"),
        "extra_levels": len(extra),
    }


def api_axes(config: EfficientDetConfig, box_coder: tuple[float, ...] = BOX_CODER) -> dict[str, list[dict[str, Any]]]:
    """Return {axis: [{placeholder or quantity: value}]}: the detector's, with the API's numbers and names.

    Args:
        config: of the model.
        box_coder: what the API multiplies (ty, tx, th, tw) by.
    """
    axes, nodes = detector_axes(config), [_named(config, node) for node in config.nodes]
    names = {(node["cell"], node["node"]): node for node in nodes}
    used = set(used_blocks(config.backbone, config.taps))
    unused = [block for block in backbone_blocks(config.backbone) if block not in used]
    divisors = {"class": (1.0,) * config.num_classes, "box": box_coder}
    return {
        **axes,
        "node": [{**node, **names[node["cell"], node["node"]]} for node in axes["node"]],
        "node_input": [
            {
                **node_input,
                **names[node_input["cell"], node_input["node"]],
                "input_name": feature_name(config, node_input["cell"], node_input["offset"]),
            }
            for node_input in axes["node_input"]
        ],
        "head": [
            {**head, "tower": TOWERS[head["head"]], "predictions": _channels(config, divisors[head["head"]])}
            for head in axes["head"]
        ],
        "extra_level": [
            {**extra, "below": extra["level"] - 1, "number": number} for number, extra in enumerate(axes["extra_level"])
        ],
        "unused_block": [{"stage": block.stage, "block": block.block} for block in unused],
    }


def feature_name(config: EfficientDetConfig, cell: int, offset: int) -> str:
    """Return what the API calls a feature of a cell: iteration, direction, level; iteration 0 comes in from outside."""
    levels = config.levels
    if offset < len(levels):
        if cell == 0:
            return f"0_up_lvl_{levels[offset]}"
        cell, offset = cell - 1, last_nodes(config.cell, levels)[offset]
    index = offset - len(levels)
    direction = "dn" if index < len(levels) - 1 else "up"
    return f"{cell + 1}_{direction}_lvl_{config.cell[index][0]}"


def _named(config: EfficientDetConfig, node: Node) -> dict[str, Any]:
    extra = max(0, config.max_level - BACKBONE_TOP)
    return {
        "cell": node.cell,
        "node": node.index,
        "number": extra + node.cell * len(config.cell) + node.index,
        "name": feature_name(config, node.cell, node.feature),
    }


def _channels(config: EfficientDetConfig, divisors: tuple[float, ...]) -> Channels:
    """Return how the API arranges the channels of a prediction: by aspect ratio, then by octave."""
    ratios, octaves, values = len(config.aspect_ratios), config.num_scales, len(divisors)
    order = [
        (ratio * octaves + octave) * values + value
        for octave in range(octaves)
        for ratio in range(ratios)
        for value in range(values)
    ]
    return Channels(tuple(order), divisors * (ratios * octaves))
