"""What names and shapes show, against the configs that they were made from."""

from __future__ import annotations

from typing import Any

import pytest

from effdet_torch.config import VARIANTS, get_config
from support.variable_shapes import Shape, variable_shapes
from tests.support.reference import config_hparams
from verify.reference.official.hparams import read_hparams
from verify.subjects.seen import seen_hparams


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_seen_whole(variant: str) -> None:
    """Everything but activation, colours, image size and anchor scale: these are the variant's."""
    assert read_hparams(seen_hparams(variable_shapes(get_config(variant))), variant=variant) == read_hparams(
        variant=variant
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"fpn_channels": 8, "fpn_cells": 1, "head_repeats": 2, "max_level": 5, "num_classes": 2},
        {"num_scales": 2, "max_level": 8, "fusion": "sum"},
        {"backbone": "efficientnet-lite3", "num_classes": 1},
    ],
)
def test_a_model_of_ones_own(changes: dict[str, Any]) -> None:
    config = get_config("d0", **changes)
    assert read_hparams(seen_hparams(variable_shapes(config)), variant="d0") == config_hparams(config)


def renamed(shapes: dict[str, Shape], part: str, other: str | None) -> dict[str, Shape]:
    return {name.replace(part, other or ""): s for name, s in shapes.items() if other is not None or part not in name}


@pytest.mark.parametrize(
    ("name", "value", "part", "other"),
    [
        ("separable_conv", False, "/conv/depthwise_kernel", "/conv/kernel"),
        ("conv_bn_act_pattern", True, "/conv/bias", None),
        ("apply_bn_for_resampling", False, "/bn/", None),
        ("fpn_weight_method", "sum", "/WSM", None),
        ("min_level", 2, "-bn-7/", "-bn-2/"),
    ],
)
def test_a_setting_that_shows(name: str, value: object, part: str, other: str | None) -> None:
    shapes = variable_shapes(get_config("d0"))
    assert seen_hparams(shapes)[name] != value
    assert seen_hparams(renamed(shapes, part, other))[name] == value


def test_weights_for_channels_and_the_nodes_of_qufpn() -> None:
    shapes: dict[str, Shape] = variable_shapes(get_config("d0"))
    assert seen_hparams({k: (64,) if "/WSM" in k else s for k, s in shapes.items()})["fpn_weight_method"] == (
        "channel_fastattn"
    )
    more = {f"fpn_cells/cell_0/fnode{index}/WSM": () for index in range(8, 21)}
    assert seen_hparams(shapes | more)["fpn_name"] == "qufpn"


def test_scales_that_do_not_show_are_left_out() -> None:
    shapes = variable_shapes(get_config("d0", num_scales=2, aspect_ratios=(1.0, 2.0, 0.5, 3.0)))
    assert seen_hparams(shapes)["num_classes"] == 90
    assert "num_scales" not in seen_hparams(shapes)


def test_a_backbone_alone() -> None:
    shapes = {name: s for name, s in variable_shapes(get_config("lite0")).items() if name.startswith("efficientnet")}
    assert seen_hparams(shapes) == {"backbone_name": "efficientnet-lite0"}
