"""Index sets of the mapping tables: how often rows repeat, and what they can name there."""

from __future__ import annotations

import pytest

from converter.plan.axes import detector_axes, detector_constants
from effdet_torch.config import VARIANTS, get_config
from support.sources import small_config


@pytest.mark.parametrize("variant", VARIANTS)
def test_axes_have_the_size_of_the_network(variant: str) -> None:
    config = get_config(variant)
    sets, levels = detector_axes(config), config.max_level - 2
    assert len(sets["block"]) == len(config.blocks)
    assert len(sets["node"]) == config.fpn_cells * 2 * (levels - 1)
    assert len(sets["node_input"]) == config.fpn_cells * (2 * (levels - 1) + 2 * (levels - 2) + levels - 2 + 2)
    assert [item["head"] for item in sets["head"]] == ["class", "box"]
    assert [item["repeat"] for item in sets["repeat"]] == list(range(config.head_repeats))
    assert [item["level"] for item in sets["level"]] == list(range(3, config.max_level + 1))
    assert [item["level_index"] for item in sets["level"]] == list(range(levels))


def test_a_node_says_how_it_fuses() -> None:
    nodes = detector_axes(get_config("d0"))["node"][:8]
    assert [node["has_three_inputs"] for node in nodes] == [False] * 4 + [True] * 3 + [False]
    assert all(node["has_two_inputs"] != node["has_three_inputs"] and node["weighted"] for node in nodes)
    assert [node["feature"] for node in nodes] == list(range(5, 13))
    assert not any(node["weighted"] for node in detector_axes(get_config("d6"))["node"])
    assert all(node["weighted"] for node in detector_axes(get_config("d6", fusion="attn"))["node"])


def test_inputs_of_the_first_cell_need_convolutions_where_channels_differ() -> None:
    inputs = detector_axes(get_config("d0"))["node_input"]
    converted = [(i["node"], i["position"], i["offset"], i["feature"]) for i in inputs if i["needs_conv"]]
    # P5, P4, P3 on the way down; P4 and P5 again on the way up.
    assert converted == [(1, 0, 2, 6), (2, 0, 1, 7), (3, 0, 0, 8), (4, 0, 1, 9), (5, 0, 2, 10)]
    assert {i["cell"] for i in inputs if i["needs_conv"]} == {0}


def test_predictions_have_a_channel_per_anchor_and_class_or_coordinate() -> None:
    config = small_config(num_classes=7, num_scales=2, aspect_ratios=(1.0, 3.0))
    assert [item["predict_channels"] for item in detector_axes(config)["head"]] == [2 * 2 * 7, 2 * 2 * 4]


def test_constants_know_when_p6_needs_a_convolution() -> None:
    found = detector_constants(get_config("d0"))
    assert found == {
        "backbone": "efficientnet-b0",
        "stem_channels": 32,
        "p5_channels": 320,
        "fpn_channels": 64,
        "p6_needs_conv": True,
    }
    assert not detector_constants(get_config("d0", fpn_channels=320))["p6_needs_conv"]  # equal channels
    assert not detector_constants(get_config("d0", max_level=5))["p6_needs_conv"]  # no P6
