"""Variants and what follows from them, against the published table and the official variable names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effdet_torch.architecture import BACKBONES, backbone_channels, bifpn_nodes, feature_sizes, stem_channels
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config, list_models
from effdet_torch.errors import ConfigError

PUBLISHED = {
    # image, BiFPN channels, cells, head repeats, levels, fusion, anchor scale, backbone
    "d0": (512, 64, 3, 3, 5, "fastattn", 4, "b0"),
    "d1": (640, 88, 4, 3, 5, "fastattn", 4, "b1"),
    "d2": (768, 112, 5, 3, 5, "fastattn", 4, "b2"),
    "d3": (896, 160, 6, 4, 5, "fastattn", 4, "b3"),
    "d4": (1024, 224, 7, 4, 5, "fastattn", 4, "b4"),
    "d5": (1280, 288, 7, 4, 5, "fastattn", 4, "b5"),
    "d6": (1280, 384, 8, 5, 5, "sum", 4, "b6"),
    "d7": (1536, 384, 8, 5, 5, "sum", 5, "b6"),
    "d7x": (1536, 384, 8, 5, 6, "sum", 4, "b7"),
    "lite0": (320, 64, 3, 3, 5, "sum", 3, "lite0"),
    "lite1": (384, 88, 4, 3, 5, "sum", 3, "lite1"),
    "lite2": (448, 112, 5, 3, 5, "sum", 3, "lite2"),
    "lite3": (512, 160, 6, 4, 5, "sum", 4, "lite3"),
    "lite3x": (640, 200, 6, 4, 5, "sum", 3, "lite3"),
    "lite4": (640, 224, 7, 4, 5, "sum", 4, "lite4"),
}


def read_shapes(shared: Path, variant: str) -> dict[str, tuple[int, ...]]:
    lines = (shared / "reference" / "variables" / f"{variant}.tsv").read_text().splitlines()
    pairs = (line.split("\t") for line in lines)
    return {name: tuple(int(size) for size in shape.split(",") if size) for name, shape in pairs}


def test_variants_are_the_published_ones() -> None:
    found = {
        name: (
            config.image_size[0],
            config.fpn_channels,
            config.fpn_cells,
            config.head_repeats,
            len(config.levels),
            config.fusion,
            config.anchor_scale,
            config.backbone.removeprefix("efficientnet-"),
        )
        for name, config in VARIANTS.items()
    }
    assert found == PUBLISHED
    assert list_models() == list(PUBLISHED)


def test_lite_variants_differ_in_activation_and_normalization() -> None:
    for name, config in VARIANTS.items():
        lite = name.startswith("lite")
        assert config.activation == ("relu6" if lite else "swish")
        assert config.mean_rgb == ((127.0, 127.0, 127.0) if lite else (123.675, 116.28, 103.53))
        assert (config.num_classes, config.anchors_per_location) == (90, 9)


@pytest.mark.parametrize("variant", list_models())
def test_dict_round_trip_through_json(variant: str) -> None:
    config = get_config(variant, num_classes=7, image_size=(384, 640), redundant_bias=True)
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_get_config_accepts_the_official_name_and_a_square() -> None:
    assert get_config("EfficientDet-D0", image_size=640) == get_config("d0", image_size=(640, 640))


@pytest.mark.parametrize(
    ("variant", "overrides", "text"),
    [
        ("d9", {}, "unknown variant 'd9'"),
        ("lite5", {}, "did you mean 'lite"),
        ("d0", {"colour": 1}, "unknown model setting for d0"),
        ("d0", {"num_classes": 0}, "num_classes is 0; expected a positive integer"),
        ("d0", {"num_classes": True}, "num_classes is True"),
        ("d0", {"image_size": (512, 512.0)}, "image_size"),
        ("d0", {"image_size": 0}, "image_size"),
        ("d0", {"max_level": 4}, "max_level is 4; expected 5 to 12"),
        ("d0", {"max_level": 7.0}, "max_level is 7.0"),
        ("d0", {"fusion": "mean"}, "one of fastattn, attn, sum"),
        ("d0", {"backbone": "resnet50"}, "backbone is 'resnet50'"),
        ("d0", {"aspect_ratios": ()}, "aspect_ratios"),
        ("d0", {"anchor_scale": float("nan")}, "anchor_scale"),
        ("d0", {"std_rgb": (1.0, 0.0, 1.0)}, "std_rgb"),
        ("d0", {"redundant_bias": 1}, "redundant_bias"),
    ],
)
def test_get_config_refuses(variant: str, overrides: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        get_config(variant, **overrides)


def test_from_dict_refuses_unknown_and_missing_settings() -> None:
    values = get_config("d0").to_dict()
    with pytest.raises(ConfigError, match="unknown model setting 'colour'"):
        EfficientDetConfig.from_dict(values | {"colour": 1})
    del values["backbone"]
    with pytest.raises(ConfigError, match="backbone"):
        EfficientDetConfig.from_dict(values)


def test_feature_sizes_halve_rounding_up() -> None:
    assert get_config("lite0").feature_sizes() == {3: (40, 40), 4: (20, 20), 5: (10, 10), 6: (5, 5), 7: (3, 3)}
    assert get_config("d0", image_size=(65, 641)).feature_sizes()[7] == (1, 6)


def test_feature_sizes_refuse_what_the_official_code_refuses() -> None:
    assert feature_sizes(64, 64, 3, 7)[7] == (1, 1)  # both sides stop together
    for height, width in ((64, 512), (512, 64)):
        with pytest.raises(ConfigError, match=r"too small for levels 3 to 7: P6 is .* at least 65 pixels"):
            feature_sizes(height, width, 3, 7)
    assert feature_sizes(65, 512, 3, 7)[7] == (1, 4)


def test_bifpn_nodes_of_five_levels() -> None:
    nodes = get_config("d0").nodes[:8]
    found = [(node.level, tuple(item.offset for item in node.inputs)) for node in nodes]
    top_down = [(6, (3, 4)), (5, (2, 5)), (4, (1, 6)), (3, (0, 7))]
    assert found == [*top_down, (4, (1, 7, 8)), (5, (2, 6, 9)), (6, (3, 5, 10)), (7, (4, 11))]
    assert [node.feature for node in nodes] == list(range(5, 13))


def test_bifpn_nodes_need_a_conv_in_the_first_cell_only() -> None:
    nodes = get_config("d0").nodes
    needy = {(node.cell, item.offset, item.channels) for node in nodes for item in node.inputs if item.needs_conv}
    assert needy == {(0, 0, 40), (0, 1, 112), (0, 2, 320)}
    same = bifpn_nodes("efficientnet-b0", range(3, 8), 112, 1)  # P4 already has the BiFPN's channels
    assert {item.offset for node in same for item in node.inputs if item.needs_conv} == {0, 2}


@pytest.mark.parametrize("variant", ["d0", "d1", "d2", "d4", "d6", "d7x", "lite0", "lite2", "lite4"])
def test_architecture_agrees_with_the_official_variables(shared: Path, variant: str) -> None:
    config = get_config(variant)
    shapes = read_shapes(shared, variant)
    scope = config.backbone
    depthwise = {
        f"{scope}/blocks_{b.flat}/depthwise_conv2d/depthwise_kernel": (b.kernel_size, b.kernel_size, b.mid_channels, 1)
        for b in config.blocks
    }
    assert depthwise == {name: shape for name, shape in shapes.items() if name in depthwise or "depthwise_conv" in name}
    for block in config.blocks:
        name = f"{scope}/blocks_{block.flat}"
        project = shapes[f"{name}/conv2d{'_1' if block.expands else ''}/kernel"]
        assert project == (1, 1, block.mid_channels, block.out_channels)
        squeeze = shapes.get(f"{name}/se/conv2d/kernel", (1, 1, block.mid_channels, 0))
        assert squeeze == (1, 1, block.mid_channels, block.squeeze_excite_channels)
    assert shapes[f"{scope}/stem/conv2d/kernel"][3] == stem_channels(scope)
    assert shapes["resample_p6/conv2d/kernel"][2:] == (backbone_channels(scope)[5], config.fpn_channels)


@pytest.mark.parametrize("variant", ["d0", "d7x", "lite4"])
def test_resampled_inputs_agree_with_the_official_variables(shared: Path, variant: str) -> None:
    expected = {
        f"fpn_cells/cell_{node.cell}/fnode{node.index}/resample_{i.position}_{i.offset}_{node.feature}": i.channels
        for node in get_config(variant).nodes
        for i in node.inputs
        if i.needs_conv
    }
    found = {
        name.removesuffix("/conv2d/kernel"): shape[2]
        for name, shape in read_shapes(shared, variant).items()
        if name.startswith("fpn_cells") and name.endswith("/conv2d/kernel")
    }
    assert found == expected


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_backbone_channels_are_those_of_the_last_blocks(backbone: str) -> None:
    last = {block.stage: block.out_channels for block in get_config("d0", backbone=backbone).blocks}
    assert backbone_channels(backbone) == {3: last[2], 4: last[4], 5: last[6]}


def test_config_is_read_without_torch() -> None:
    check = "import effdet_torch.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    control = f"import sys; sys.modules['torch'] = sys; {check}"
    assert subprocess.run([sys.executable, "-c", control], check=False).returncode == 1
