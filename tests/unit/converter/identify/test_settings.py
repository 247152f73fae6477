"""Who decides which value of a config: shapes, --hparams, config.yaml, variant default, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConversionError
from converter.identify.architecture import DetectorArchitecture
from converter.identify.hparams import given_hparams
from converter.identify.settings import FROM_SHAPES, FROM_VARIANT, Settings, settle
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError
from support.sources import MemorySource, architecture_of, placeholders, plan_of, small_config

SHAPE_FIELDS = {"backbone", "fpn_channels", "fpn_cells", "head_repeats", "max_level", "num_classes"}


def architecture(config: EfficientDetConfig | str) -> DetectorArchitecture:
    return architecture_of(placeholders(plan_of(config)))


def settled(
    config: EfficientDetConfig | str,
    *given: tuple[str, Mapping[str, Any]],
    variant: str | None = None,
    path: str = "folder/model",
) -> Settings:
    return settle(architecture(config), given, variant, Path(path))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_alone_gives_its_config(variant: str) -> None:
    result = settled(variant, path=f"efficientdet-{variant}/model")
    assert result.config == get_config(variant)
    assert result.notes == ()
    assert {name for name, origin in result.origins.items() if origin == FROM_SHAPES} == SHAPE_FIELDS
    assert set(result.origins.values()) == {FROM_SHAPES, FROM_VARIANT}
    assert result.origins.keys() == get_config(variant).to_dict().keys() - {"name", "redundant_bias"}


def test_d6_and_d7_need_a_word() -> None:
    result = settled("d7")
    assert result.config == get_config("d6")
    assert result.notes == ("d6 and d7 have the same variables: d6 is assumed; pass --variant if it is another",)


@pytest.mark.parametrize(
    "path",
    ["efficientdet-d7/model", "d7/model.index", "efficientdet-d7", "efficientdet-d7.tar.gz", "x/d7.tgz"],
)
def test_the_path_tells_d7_from_d6(path: str) -> None:
    result = settled("d7", path=path)
    assert (result.config, result.notes) == (get_config("d7"), ())


def test_the_strongest_hint_counts() -> None:
    d6, d7 = {"name": "efficientdet-d6"}, {"name": "efficientdet-d7"}
    assert settled("d6", ("config.yaml", d7)).config.name == "d7"
    assert settled("d6", ("config.yaml", d7), path="efficientdet-d6/model").config.name == "d7"
    assert settled("d6", ("config.yaml", d7), ("--hparams", d6), path="efficientdet-d7/x").config.name == "d6"
    assert settled("d6", path="efficientdet-d6/efficientdet-d7").config.name == "d7"
    assert settled("d6", ("config.yaml", d6), path="d6/model", variant="d7").config.name == "d7"


def test_a_hint_at_another_variant_changes_nothing() -> None:
    assert settled("d0", ("config.yaml", {"name": "efficientdet-d1"}), path="efficientdet-d2/m").config.name == "d0"


@pytest.mark.parametrize("variant", ["d0", "efficientdet-d0", "D0"])
def test_the_variant_is_checked(variant: str) -> None:
    assert settled("d0", variant=variant).config == get_config("d0")


def test_a_wrong_variant_is_refused_with_what_it_looks_like() -> None:
    with pytest.raises(ConversionError) as caught:
        settled("d1", variant="d0")
    text = str(caught.value)
    assert text.startswith("not d0: backbone efficientnet-b1 (expected efficientnet-b0), fpn_channels 88 (expected 64)")
    assert text.endswith("the checkpoint looks like d1: try --variant d1")


def test_a_wrong_variant_by_fusion_alone() -> None:
    own = get_config("d6", fusion="fastattn")
    with pytest.raises(ConversionError, match=r"^not d6: weighted fusion \(expected sum\); no official variant has"):
        settled(own, variant="d6")
    with pytest.raises(ConversionError, match=r"unweighted fusion \(expected fastattn\)"):
        settled(get_config("d0", fusion="sum"), variant="d0")


def test_a_variant_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="unknown variant 'd9'"):
        settled("d0", variant="d9")


def test_an_architecture_of_its_own_starts_from_its_backbone() -> None:
    own = small_config()
    result = settled(own)
    assert result.config == own
    assert result.config.name == "d0"
    assert result.notes == (
        "a custom architecture, not one of the official variants: efficientnet-b0, BiFPN 1 x 8 channels, "
        "weighted fusion, heads x 1, levels 3-5; unspecified settings default to d0's",
    )


@pytest.mark.parametrize(("base", "fusion"), [("d0", "sum"), ("d6", "fastattn"), ("lite0", "fastattn")])
def test_fusion_weights_decide_between_sum_and_weights(base: str, fusion: str) -> None:
    result = settled(get_config(base, fusion=fusion))
    assert result.config.fusion == fusion
    assert result.origins["fusion"] == FROM_SHAPES


def test_names_cannot_tell_softmax_from_fast_normalised_fusion() -> None:
    attn = get_config("d6", fusion="attn")
    result = settled(attn, ("config.yaml", {"fpn_weight_method": "attn"}))
    assert result.config.fusion == "attn"
    assert result.origins["fusion"] == "config.yaml"


def test_the_last_one_that_gives_a_value_decides() -> None:
    file = {"image_size": "640x384", "anchor_scale": 3.0, "num_classes": 90}
    result = settled("d0", ("config.yaml", file), ("--hparams", {"anchor_scale": 5}))
    assert (result.config.image_size, result.config.anchor_scale) == ((384, 640), 5.0)
    assert result.origins["image_size"] == "config.yaml"
    assert result.origins["anchor_scale"] == "--hparams"
    assert result.origins["num_classes"] == FROM_SHAPES  # confirmed by config.yaml
    assert result.origins["mean_rgb"] == FROM_VARIANT
    swapped = settled("d0", ("--hparams", {"anchor_scale": 5}), ("config.yaml", file))
    assert swapped.config.anchor_scale == 3.0


@pytest.mark.parametrize(
    ("hparams", "words"),
    [
        (
            {"num_classes": 20},
            "config.yaml sets num_classes to 20, but the checkpoint's shapes show 90; fix config.yaml",
        ),
        ({"backbone_name": "efficientnet-b1"}, "sets backbone to efficientnet-b1, but the checkpoint's shapes show"),
        ({"fpn_num_filters": 88}, "sets fpn_channels to 88, but the checkpoint's shapes show 64"),
        ({"fpn_cell_repeats": 4}, "sets fpn_cells to 4, but the checkpoint's shapes show 3"),
        ({"box_class_repeats": 4}, "sets head_repeats to 4, but the checkpoint's shapes show 3"),
        ({"max_level": 8}, "sets max_level to 8, but the checkpoint's shapes show 7"),
        ({"fpn_weight_method": "sum"}, "sets fusion to 'sum', but the checkpoint has fusion weights"),
    ],
)
def test_contradictions_are_refused(hparams: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError) as caught:
        settled("d0", ("config.yaml", hparams))
    assert words in str(caught.value)


def test_weights_where_there_are_none_are_refused() -> None:
    with pytest.raises(ConversionError, match="sets fusion to 'attn', but the checkpoint has no fusion weights"):
        settled("d6", ("--hparams", {"fpn_weight_method": "attn"}), variant="d6")


def test_another_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="separable_conv is False, which is unsupported"):
        settled("d0", ("config.yaml", {"separable_conv": False}))


@pytest.mark.parametrize("hparams", [{"num_scales": 5}, {"num_scales": 5, "aspect_ratios": [1.0, 2.0, 0.5]}])
def test_given_anchors_that_fit_are_taken(hparams: dict[str, Any]) -> None:
    result = settled(small_config(num_scales=5), ("config.yaml", hparams))
    assert result.config.num_scales == 5
    assert result.origins["num_scales"] == "config.yaml"


def test_anchors_nobody_told_are_taken_as_scales_and_noted() -> None:
    result = settled(get_config("d0", num_scales=5))
    assert (result.config.num_scales, result.config.aspect_ratios) == (5, (1.0, 2.0, 0.5))
    assert result.origins["num_scales"] == FROM_SHAPES
    (note,) = result.notes
    assert note.startswith(
        "3 scales x 3 aspect ratios, but the heads have 15 anchors per location; 5 scales are assumed"
    )


def test_given_ratios_leave_the_rest_to_the_scales() -> None:
    config = get_config("d0", num_scales=2, aspect_ratios=(1.0, 3.0))
    result = settled(config, ("--hparams", {"aspect_ratios": [1.0, 3.0]}))
    assert result.config == config
    assert len(result.notes) == 1


@pytest.mark.parametrize(
    ("anchors", "hparams"),
    [
        ({"num_scales": 1, "aspect_ratios": (1.0,) * 10}, {}),  # 10 is no multiple of three ratios
        ({"num_scales": 5}, {"num_scales": 4}),  # 4 scales x 3 ratios are not 15
        ({"num_scales": 5}, {"aspect_ratios": [1.0, 2.0]}),
    ],
)
def test_anchors_that_cannot_fit_are_refused(anchors: dict[str, Any], hparams: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match=r"anchors per location; give both: --hparams num_scales=\.\.\."):
        settled(get_config("d0", **anchors), ("--hparams", hparams))


def test_the_shared_trained_config_is_honoured(shared: Path) -> None:
    folder = shared / "trained_d0_256"
    result = settled("d0", *given_hparams(MemorySource({}, str(folder / "m"))), path=str(folder / "model.ckpt-780"))
    assert result.config.image_size == (256, 256)
    assert result.origins["image_size"] == "config.yaml"
    assert result.notes == ()


def test_biases_are_kept_on_request() -> None:
    found = architecture("d0")
    assert settle(found, [], None, Path("m"), redundant_bias=True).config.redundant_bias
    assert not settle(found, [], None, Path("m")).config.redundant_bias


def test_a_misspelled_option_is_questioned() -> None:
    wrong = {"image_sise": 640, "num_epochs": 3}
    assert settled("d0", ("--hparams", wrong)).notes == (
        "hyperparameter image_sise is not used; did you mean image_size?",
    )
    assert not settled("d0", ("config.yaml", wrong)).notes


@pytest.mark.parametrize(("variant", "other"), [("d7", "d6"), ("lite3x", "lite3")])
def test_an_architecture_of_its_own_starts_from_the_variant_that_is_named(variant: str, other: str) -> None:
    own = get_config(variant, max_level=8)
    named = settled(own, ("config.yaml", {"name": f"efficientdet-{variant}"}))
    assert named.config == own
    assert named.notes[0].endswith(f"; unspecified settings default to {variant}'s")
    assert settled(own).config == get_config(other, max_level=8, fpn_channels=own.fpn_channels)
    assert settled(own, path="efficientdet-d0/model").config.name == other  # another backbone's name tells nothing


@pytest.mark.parametrize(
    "name", ["tf_efficientdet_d7_53-6d1d7a95.pth", "efficientdet-d7_frozen.pb", "d7.h5", "EfficientDet-d7-640"]
)
def test_a_file_name_in_any_style_tells_d7_from_d6(name: str) -> None:
    assert settled("d7", path=f"folder/{name}").config.name == "d7"
    assert settled("d7", path=f"folder/{name.replace('d7', 'd8')}").config.name == "d6"
