"""Variants and what follows from them, against the published table; `tests/contract` has the official variables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from effdet_torch.architecture.backbone import BACKBONES, backbone_channels
from effdet_torch.architecture.feature_sizes import feature_sizes
from effdet_torch.config import PACKAGE_VARIANTS, VARIANTS, EfficientDetConfig, get_config, list_models
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


LATER = {
    *("min_level", "fpn_name", "fpn_config", "survival_prob", "conv_after_downsample", "conv_bn_act_pattern"),
    *("apply_bn_for_resampling", "separable_conv", "nms_configs", "label_map"),
}


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
    assert list_models() == [*PUBLISHED, *PACKAGE_VARIANTS]
    for name, config in VARIANTS.items():
        lite = name.startswith("lite")
        assert config.activation == ("relu6" if lite else "swish")
        assert config.mean_rgb == ((127.0, 127.0, 127.0) if lite else (123.675, 116.28, 103.53))
        assert (config.num_classes, config.anchors_per_location) == (90, 9)


@pytest.mark.parametrize("variant", list_models())
def test_dict_round_trip_through_json(variant: str) -> None:
    config = get_config(variant, num_classes=7, image_size=(384, 640), redundant_bias=True)
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert get_config(variant.upper(), image_size=640) == get_config(variant, image_size=(640, 640))


@pytest.mark.parametrize("pattern", ["{}", "efficientdet-{}", "tf_efficientdet_{}", "EfficientDet-{}"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_names_of_the_official_code_timm_and_effdet(pattern: str, variant: str) -> None:
    assert get_config(pattern.format(variant)) == get_config(pattern.format(variant.upper())) == get_config(variant)


@pytest.mark.parametrize(
    ("variant", "overrides", "text"),
    [
        ("d9", {}, "unknown variant 'd9'; known variants: d0, d1, .*, efficientdetv2_ds$"),
        ("lite5", {}, "did you mean 'lite"),
        ("tf_efficientdet_d00", {}, "did you mean 'd0'?"),
        ("resnet50", {}, "known variants: d0, .*, efficientdetv2_ds$"),
        (
            "tf_efficientdet_d0_ap",
            {},
            "'tf_efficientdet_d0_ap' is not a variant, but d0 with other settings: pass 'd0' and normalization='",
        ),
        ("efficientdet-d4-640", {}, "but d4 with other settings: pass 'd4' and image_size=640"),
        ("d0", {"colour": 1}, "unknown model setting 'colour'; known settings: "),
        ("d0", {"num_classes": 0}, "num_classes is 0; expected a positive integer"),
        ("d0", {"num_classes": True}, "num_classes is True"),
        ("d0", {"image_size": (512, 512.0)}, "image_size"),
        ("d0", {"image_size": 1}, "two integers from 32 to 8192"),
        ("d0", {"image_size": (32, 96)}, "image size 96x32 .* is too small for levels 3 to 7: P5"),
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
    with pytest.raises(ConfigError, match=text.replace("(", r"\(").replace("?", r"\?")):
        get_config(variant, **overrides)


def test_from_dict_refuses_unknown_and_missing_settings() -> None:
    values = get_config("d0").to_dict()
    with pytest.raises(ConfigError, match="unknown model setting 'colour'"):
        EfficientDetConfig.from_dict(values | {"colour": 1})
    del values["backbone"]
    with pytest.raises(ConfigError, match="backbone"):
        EfficientDetConfig.from_dict(values)


def test_feature_sizes_halve_rounding_up_or_are_refused_as_by_the_official_code() -> None:
    assert get_config("lite0").feature_sizes() == {3: (40, 40), 4: (20, 20), 5: (10, 10), 6: (5, 5), 7: (3, 3)}
    assert get_config("d0", image_size=(65, 641)).feature_sizes()[7] == (1, 6)
    assert feature_sizes(64, 64, 3, 7)[7] == (1, 1)  # both sides stop together
    for height, width in ((64, 512), (512, 64)):
        with pytest.raises(ConfigError, match=r"too small for levels 3 to 7: P6 is .* at least 65 pixels"):
            feature_sizes(height, width, 3, 7)


def test_bifpn_nodes_need_a_conv_in_the_first_cell_only() -> None:
    nodes = get_config("d0").nodes
    needy = {(node.cell, item.offset, item.channels) for node in nodes for item in node.inputs if item.needs_conv}
    assert needy == {(0, 0, 40), (0, 1, 112), (0, 2, 320)}
    same = get_config("d0", fpn_channels=112, fpn_cells=1).nodes  # P4 already has the BiFPN's channels
    assert {item.offset for node in same for item in node.inputs if item.needs_conv} == {0, 2}


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_backbone_channels_are_those_of_the_last_blocks(backbone: str) -> None:
    last = {block.stage: block.out_channels for block in get_config("d0", backbone=backbone).blocks}
    assert backbone_channels(backbone) == {1: last[0], 2: last[1], 3: last[2], 4: last[4], 5: last[6]}


REPEATED = ("fpn_cells", "head_repeats", "num_scales")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"min_level": 0}, "min_level is 0; expected 1 to 5"),
    ({"fpn_name": "nasfpn"}, "fpn_name is 'nasfpn'; expected one of bifpn, qufpn"),
    ({"fusion": "max"}, "fusion is 'max'; expected one of fastattn"),
    ({"fpn_config": ((3, (0, 1)),)}, "the fpn has no node on level 4"),
    ({"fpn_config": ((9, (0, 1)),)}, "fpn node 0 is on level 9; expected 3 to 7"),
    ({"fpn_config": ((3, (0, 5)),)}, r"fpn node 0 takes the features \[0, 5\]; expected offsets from 0 to 4"),
    ({"fpn_config": ((3, ()),)}, "fpn_config is .*; expected nodes"),
    ({"anchor_scale": (4.0, 5.0)}, "anchor_scale has 2 values; expected one, or 5 for the levels 3 to 7"),
    ({"anchor_scale": ()}, "anchor_scale is"),
    ({"aspect_ratios": ((1.0, 2.0, 3.0),)}, "aspect_ratios is"),
    ({"survival_prob": 1.5}, "survival_prob is 1.5; expected 0 to 1"),
    ({"separable_conv": 1}, "separable_conv is 1; expected true or false"),
    ({"nms_configs": (("speed", 3),)}, "nms_configs is"),
    ({"label_map": (("a", "b"),)}, "label_map is"),
    ({"label_map": {1: 2}}, "label_map is"),
    ({"label_map": {99: "b"}}, "label_map names category 99"),
    ({"label_map": ((99, "b"),)}, "label_map names category 99; expected 1 to 90"),
    ({"label_map": ((0, "b"),)}, "label_map names category 0"),
    ({"nms_configs": (("sigma", -1.0),)}, "nms_configs is"),
    ({"nms_configs": (("iou_thresh", "a"),)}, "nms_configs is"),
    ({"image_size": (64, 8193)}, r"expected \(height, width\), two integers from 32 to 8192"),
    ({"image_size": (31, 64)}, r"image_size is \(31, 64\); expected \(height, width\), two integers from 32"),
    *(({name: 101}, f"{name} is 101; expected a positive integer, at most 100") for name in REPEATED),
    *(({name: 1_000_001}, "expected a positive integer, at most 1000000") for name in ("num_classes", "fpn_channels")),
    ({"aspect_ratios": (1.0,) * 101}, "aspect_ratios is"),
    ({"resize": "area"}, "resize is 'area'; expected one of half_pixel, legacy"),
    ({"taps": ((2, "1"),)}, r"taps is .*; expected pairs \(stage, block\), or nothing"),
    (
        {"taps": ((2, 1), (4, 2))},
        r"expected \(stage, block\) of efficientnet-b0 for every level: \(2, 0 to 1\), \(4, 0",
    ),
    ({"taps": ((2, 1), (4, 3), (6, 0))}, r"taps is \(\(2, 1\), \(4, 3\), \(6, 0\)\); expected"),
    ({"taps": ((2, 1), (3, 2), (6, 0))}, "taps is"),
    ({"nms_configs": (("profile", "serving"),)}, "nms_configs is"),
    ({"fpn_config": ((3, (0,)),) * 101}, "expected nodes .*, at most 100"),
]


def test_settings_at_their_limits() -> None:
    """Negative control."""
    many = dict.fromkeys(REPEATED, 100)
    get_config("d0", **many, image_size=8192, num_classes=1_000_000, aspect_ratios=(1.0,) * 100)


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_settings_that_are_no_network_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        get_config("d0", **changes)


def test_settings_of_earlier_versions_can_be_read() -> None:
    """Their files state fewer of them."""
    config = get_config("d0", aspect_ratios=((1.4, 0.7), 2.0), label_map=((1, "a"),), fpn_config=get_config("d0").cell)
    values = config.to_dict()
    assert EfficientDetConfig.from_dict(json.loads(json.dumps(values))) == config
    earlier = {name: value for name, value in get_config("d6").to_dict().items() if name not in LATER}
    assert EfficientDetConfig.from_dict(earlier) == get_config("d6")


def test_qufpn_has_four_paths_and_sums() -> None:
    cell = get_config("d0", fpn_name="qufpn").cell
    assert len(cell) == 21
    assert [level for level, _ in cell[-5:]] == [7, 6, 5, 4, 3]
    assert all(len(offsets) == 2 for _, offsets in cell[-5:])
    levels = [*range(3, 8), *(level for level, _ in cell)]
    for level, offsets in cell[-5:]:  # the sums add two features of their own level
        assert {levels[offset] for offset in offsets} == {level}
    upwards = get_config("d0", fpn_name="qufpn_upwards").cell
    assert upwards == (*cell[:-5], *reversed(cell[-5:]))


def test_names_of_the_effdet_package() -> None:
    """With an underscore the package's own model; the official name has a hyphen."""
    assert get_config("efficientdet_d0").backbone_style == get_config("EfficientDet_D0").backbone_style == "pytorch"
    assert get_config("efficientdet-d0") == get_config("tf_efficientdet_d0") == get_config("d0")
    assert get_config("efficientdet-q0") == get_config("efficientdet_q0")
    with pytest.raises(ConfigError, match=r"did you mean 'efficientdet_q2'\?"):
        get_config("efficientdet_q22")
    with pytest.raises(ConfigError, match="'resdet50' of the effdet package is not supported: its backbone ResNet-50"):
        get_config("resdet50")
