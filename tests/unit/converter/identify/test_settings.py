"""Which source decides a value of a config: shapes, --hparams, config.yaml, variant default, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from converter.errors import ConversionError
from converter.identify.settings import FROM_SHAPES, FROM_VARIANT, settle_detector
from converter.plan.family import Request, Settings
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError
from support.sources import MemorySource, architecture_of, placeholders, plan_of, small_config

SHAPE_FIELDS = {"backbone", "fpn_channels", "fpn_cells", "head_repeats", "max_level", "num_classes"}
architecture = cache(lambda config: architecture_of(placeholders(plan_of(config))))


def settled(
    config: EfficientDetConfig | str,
    *given: tuple[str, Mapping[str, Any]],
    path: str = "folder/model",
    **options: Any,
) -> Settings:
    source = MemorySource({}, path, given=given)
    return settle_detector(architecture(config), Request(source, **options))


def from_file(**hparams: Any) -> tuple[str, Mapping[str, Any]]:
    return "config.yaml", hparams


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_alone_gives_its_config(variant: str) -> None:
    result = settled(variant, path=f"efficientdet-{variant}/model")
    assert result.config == get_config(variant)
    assert result.notes == ()
    assert {name for name, origin in result.origins.items() if origin == FROM_SHAPES} == SHAPE_FIELDS
    assert set(result.origins.values()) == {FROM_SHAPES, FROM_VARIANT}
    assert result.origins.keys() == get_config(variant).to_dict().keys() - {"name", "redundant_bias"}
    assert settled(variant, redundant_bias=True).config.redundant_bias


def test_d6_is_assumed_without_a_hint() -> None:
    result = settled("d7")
    assert result.config == get_config("d6")
    assert result.notes == ("d6 and d7 have the same variables: d6 is assumed; pass --variant if that is wrong",)


@pytest.mark.parametrize(
    "path",
    [
        *("efficientdet-d7/model", "d7/model.index", "efficientdet-d7", "efficientdet-d7.tar.gz", "x/d7.tgz"),
        *("tf_efficientdet_d7_53-6d1d7a95.pth", "efficientdet-d7_frozen.pb", "d7.h5", "folder/EfficientDet-d7-640"),
    ],
)
def test_the_path_distinguishes_d7_from_d6(path: str) -> None:
    assert settled("d7", path=path).config == get_config("d7")
    assert settled("d7", path=path.replace("d7", "d8")).config.name == "d6"  # negative control


D6, D7 = {"name": "efficientdet-d6"}, {"name": "efficientdet-d7"}


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        ([("config.yaml", D7)], {}, "d7"),
        ([("config.yaml", D7)], {"path": "efficientdet-d6/model"}, "d7"),
        ([("config.yaml", D7), ("--hparams", D6)], {"path": "efficientdet-d7/x"}, "d6"),
        ([], {"path": "efficientdet-d6/efficientdet-d7"}, "d7"),
        ([("config.yaml", D6)], {"path": "d6/model", "variant": "d7"}, "d7"),
    ],
)
def test_the_strongest_hint_counts(
    given: list[tuple[str, Mapping[str, Any]]], options: dict[str, Any], expected: str
) -> None:
    assert settled("d6", *given, **options).config.name == expected


def test_a_hint_at_another_variant_changes_nothing() -> None:
    assert settled("d0", from_file(name="efficientdet-d1"), path="efficientdet-d2/m").config.name == "d0"


@pytest.mark.parametrize("variant", ["d0", "efficientdet-d0", "D0"])
def test_the_right_variant_is_accepted(variant: str) -> None:
    assert settled("d0", variant=variant).config == get_config("d0")


@pytest.mark.parametrize(
    ("config", "variant", "words"),
    [
        (
            "d1",
            "d0",
            r"^not d0: backbone efficientnet-b1 \(expected efficientnet-b0\), fpn_channels 88 \(expected 64\)",
        ),
        ("d1", "d0", "; the checkpoint looks like d1: try --variant d1$"),
        (get_config("d6", fusion="fastattn"), "d6", r"^not d6: weighted fusion \(expected sum\); no official variant"),
        (get_config("d0", fusion="sum"), "d0", r"unweighted fusion \(expected fastattn\)"),
    ],
)
def test_a_wrong_variant_is_refused(config: EfficientDetConfig | str, variant: str, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        settled(config, variant=variant)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown variant 'd9'"):
        settled("d0", variant="d9")


def test_a_custom_architecture_starts_from_its_backbone() -> None:
    result = settled(small_config())
    assert result.config == small_config()
    assert result.config.name == "d0"
    assert result.notes == (
        "a custom architecture, not one of the official variants: efficientnet-b0, BiFPN 1 x 8 channels, "
        "weighted fusion, heads x 1, levels 3-5; unspecified settings default to d0's",
    )


@pytest.mark.parametrize(("variant", "other"), [("d7", "d6"), ("lite3x", "lite3")])
def test_a_custom_architecture_starts_from_the_variant_that_is_named(variant: str, other: str) -> None:
    own = get_config(variant, max_level=8)
    named = settled(own, from_file(name=f"efficientdet-{variant}"))
    assert named.config == own
    assert named.notes[0].endswith(f"; unspecified settings default to {variant}'s")
    assert settled(own).config == get_config(other, max_level=8, fpn_channels=own.fpn_channels)
    assert settled(own, path="efficientdet-d0/model").config.name == other  # the name of another backbone is no hint


@pytest.mark.parametrize(("base", "fusion"), [("d0", "sum"), ("d6", "fastattn"), ("lite0", "fastattn")])
def test_the_variables_decide_whether_fusion_is_weighted(base: str, fusion: str) -> None:
    result = settled(get_config(base, fusion=fusion))
    assert (result.config.fusion, result.origins["fusion"]) == (fusion, FROM_SHAPES)


def test_a_file_distinguishes_softmax_from_fast_normalised_fusion() -> None:
    result = settled(get_config("d6", fusion="attn"), from_file(fpn_weight_method="attn"))
    assert (result.config.fusion, result.origins["fusion"]) == ("attn", "config.yaml")


def test_the_last_source_of_a_value_decides() -> None:
    file, option = from_file(image_size="640x384", anchor_scale=3.0, num_classes=90), ("--hparams", {"anchor_scale": 5})
    result = settled("d0", file, option)
    assert (result.config.image_size, result.config.anchor_scale) == ((384, 640), 5.0)
    names = ("image_size", "anchor_scale", "num_classes", "mean_rgb")
    origins = ["config.yaml", "--hparams", FROM_SHAPES, FROM_VARIANT]  # num_classes: confirmed by the file
    assert [result.origins[name] for name in names] == origins
    assert settled("d0", option, file).config.anchor_scale == 3.0


@pytest.mark.parametrize(
    ("hparams", "words"),
    [
        ({"num_classes": 20}, "config.yaml sets num_classes to 20, but the checkpoint's shapes show 90; fix config.y"),
        ({"backbone_name": "efficientnet-b1"}, "sets backbone to efficientnet-b1, but the checkpoint's shapes show"),
        ({"fpn_num_filters": 88}, "sets fpn_channels to 88, but the checkpoint's shapes show 64"),
        ({"fpn_cell_repeats": 4}, "sets fpn_cells to 4, but the checkpoint's shapes show 3"),
        ({"box_class_repeats": 4}, "sets head_repeats to 4, but the checkpoint's shapes show 3"),
        ({"max_level": 8}, "sets max_level to 8, but the checkpoint's shapes show 7"),
        ({"fpn_weight_method": "sum"}, "sets fusion to 'sum', but the checkpoint has fusion weights"),
    ],
)
def test_contradictions_are_refused(hparams: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        settled("d0", ("config.yaml", hparams))


def test_fusion_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConversionError, match="sets fusion to 'attn', but the checkpoint has no fusion weights"):
        settled("d6", ("--hparams", {"fpn_weight_method": "attn"}), variant="d6")


@pytest.mark.parametrize("hparams", [{"num_scales": 5}, {"num_scales": 5, "aspect_ratios": [1.0, 2.0, 0.5]}])
def test_anchors_of_a_file_that_fit_are_taken(hparams: dict[str, Any]) -> None:
    result = settled(small_config(num_scales=5), ("config.yaml", hparams))
    assert (result.config.num_scales, result.origins["num_scales"]) == (5, "config.yaml")


@pytest.mark.parametrize("ratios", [(1.0, 2.0, 0.5), (1.0, 3.0)])
def test_unspecified_anchors_are_taken_as_scales_and_noted(ratios: tuple[float, ...]) -> None:
    config = get_config("d0", num_scales=5, aspect_ratios=ratios)
    given = [] if len(ratios) == 3 else [("--hparams", {"aspect_ratios": list(ratios)})]
    result = settled(config, *given)
    assert (result.config, result.origins["num_scales"]) == (config, FROM_SHAPES)
    (note,) = result.notes
    count = f"3 scales x {len(ratios)} aspect ratios, but the heads have {5 * len(ratios)} anchors per location"
    assert note == f"{count}; 5 scales are assumed; pass --hparams if that is wrong"


@pytest.mark.parametrize(
    ("anchors", "hparams"),
    [
        ({"num_scales": 1, "aspect_ratios": (1.0,) * 10}, {}),  # 10 is not a multiple of three ratios
        ({"num_scales": 5}, {"num_scales": 4}),  # 4 scales x 3 ratios are not 15
        ({"num_scales": 5}, {"aspect_ratios": [1.0, 2.0]}),
    ],
)
def test_anchors_that_cannot_fit_are_refused(anchors: dict[str, Any], hparams: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match=r"anchors per location; pass both: --hparams num_scales=\.\.\."):
        settled(get_config("d0", **anchors), ("--hparams", hparams))


def test_a_misspelled_option_is_questioned() -> None:
    wrong = {"image_sise": 640, "num_epochs": 3}
    note = "hyperparameter image_sise is not used; did you mean image_size?"
    assert settled("d0", ("--hparams", wrong)).notes == (note,)
    assert not settled("d0", ("config.yaml", wrong)).notes
