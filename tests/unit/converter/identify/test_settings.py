"""Which source decides a value of a config: shapes, --hparams, config.yaml, variant default, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from converter.errors import ConversionError
from converter.hparams.fields import hparams_of
from converter.identify.evidence import ASSUMED
from converter.identify.settings import FROM_SHAPES, NO_SETTINGS, settle_detector
from converter.plan.family import Request, Settings
from converter.source import GraphEvidence
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import assumptions
from support.sources import MemorySource, architecture_of, placeholders, plan_of, small_config

SHAPE_FIELDS = {
    *("backbone", "fpn_channels", "fpn_cells", "head_repeats", "min_level", "max_level", "num_classes"),
    *("separable_conv", "apply_bn_for_resampling", "conv_bn_act_pattern", "heads", "seg_num_classes"),
}
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
    assert result.assumed == {}
    shown = {name for name, origin in result.origins.items() if origin == FROM_SHAPES}
    assert shown - {"fusion"} == SHAPE_FIELDS
    assert ("fusion" in shown) == (get_config(variant).fusion == "sum")
    assert set(result.origins.values()) == {FROM_SHAPES, f"the official {variant}"}
    fields = get_config(variant).to_dict().keys() - set(NO_SETTINGS)
    assert result.origins.keys() == fields | {"backbone_config"}
    assert settled(variant, redundant_bias=True).config.redundant_bias


HIDDEN = [
    *("image_size", "num_scales", "aspect_ratios", "anchor_scale", "mean_rgb", "stddev_rgb", "scale_range"),
    *("act_type", "fpn_weight_method", "fpn_config", "survival_prob", "conv_after_downsample", "backbone_config"),
    "nms_configs",
]


def test_what_nothing_shows_and_nobody_states_is_assumed_and_listed() -> None:
    result = settled("d0")
    assert list(result.assumed) == HIDDEN
    assert assumptions({"assumed": result.assumed}) == (
        "image_size 512, num_scales 3, aspect_ratios 1*2*0.5, anchor_scale 4, mean_rgb 123.675*116.28*103.53, "
        "stddev_rgb 58.395*57.12*57.375, scale_range false, act_type swish, fpn_weight_method fastattn, "
        "fpn_config none, survival_prob none, conv_after_downsample false, backbone_config none, nms_configs none (not "
        "set in config.yaml or --hparams); if that is wrong, convert again with --hparams, or with config.yaml beside "
        "the checkpoint"
    )
    stated = settled("d0", from_file(act_type="swish", survival_prob=None), ("--hparams", {"fpn_name": "bifpn"}))
    assert list(stated.assumed) == [name for name in HIDDEN if name not in ("act_type", "survival_prob", "fpn_config")]
    assert (stated.origins["survival_prob"], stated.origins["fpn_config"]) == ("config.yaml", "--hparams")
    everything = hparams_of(get_config("d0"))
    assert settled("d0", ("config.yaml", everything)).assumed == {}


def test_what_makes_no_difference_is_not_listed() -> None:
    assert "fpn_weight_method" not in settled("d6").assumed
    assert "survival_prob" not in settled(small_config(head_repeats=1)).assumed


@pytest.mark.parametrize("path", ["efficientdet-d0.tar.gz", "x/efficientdet-d0/model", "efficientdet-d0.h5"])
def test_an_official_file_is_known_by_name_shapes_and_no_optimizer(path: str) -> None:
    request = partial(settle_detector, architecture("d0"))
    assert request(Request(MemorySource({}, path))).assumed == {}
    for slot in ("Momentum", "m", "Adagrad", "whatever"):  # a training checkpoint
        arrays = {"a/kernel": np.zeros(1), f"a/kernel/{slot}": np.zeros(1)}
        assert request(Request(MemorySource(arrays, path))).assumed
    averages = {"a/kernel": np.zeros(1), "a/kernel/ExponentialMovingAverage": np.zeros(1)}
    assert not request(Request(MemorySource(averages, path))).assumed
    never_published = MemorySource({}, path)
    never_published = never_published.with_facts(replace(never_published.facts, kind="TF2 object checkpoint"))
    assert request(Request(never_published)).assumed
    assert settled("d0", path=path.replace("efficientdet-", "my-")).assumed
    assert settled(get_config("d0", num_classes=3), path=path).assumed
    assert settled(get_config("d0", fpn_cells=4), path=path).assumed


@pytest.mark.parametrize("path", ["x/efficientdet-d0.bak/model", "my-efficientdet-d0/model", "efficientdet-d0.bak"])
def test_a_similar_name_is_not_official(path: str) -> None:
    assert settled("d0", path=path).assumed


def test_what_the_user_replaces_is_said() -> None:
    result = settled("d0", from_file(act_type="relu6"), hparams={"act_type": "swish", "anchor_scale": 3})
    assert result.notes == ("--hparams sets act_type to swish, config.yaml has relu6",)
    assert settled("d0", from_file(act_type="relu6"), hparams={"act_type": "relu6"}).notes == ()


def test_the_graph_of_another_network_is_an_error() -> None:
    graph = GraphEvidence(GRAPH, {"act_type": "relu6"}, shapes={"a/kernel": (1, 2), "b": (3,)})
    source = MemorySource({"a/kernel": np.zeros((1, 3))}, graph=lambda: graph)
    words = r"the graph \(model.meta\) is that of another network: a/kernel has the shape \(1, 2\) in it"
    with pytest.raises(ConversionError, match=words):
        settle_detector(architecture("d0"), Request(source))


def test_rewired_nodes_of_a_graph_contradict_a_named_pyramid() -> None:
    nodes = [{"feat_level": level, "inputs_offsets": list(offsets)} for level, offsets in get_config("d0").cell]
    nodes[0]["inputs_offsets"].reverse()
    graph = {"fpn_config": {"nodes": nodes, "weight_method": "fastattn"}}
    with pytest.raises(ConversionError, match=r"--hparams sets fpn_name to .* but the graph"):
        with_graph("d0", graph, hparams={"fpn_name": "bifpn"})


@pytest.mark.parametrize("graph", [{"fpn_name": "qufpn"}, {"fpn_config": ((3, (0, 1)), *small_config().cell)}])
def test_another_pyramid_must_be_stated(graph: dict[str, Any]) -> None:
    config = small_config(**graph)
    with pytest.raises(ConversionError, match=r"have \d+ nodes, those of bifpn 4: another fpn_name or fpn_config"):
        settled(config)
    assert settled(config, ("--hparams", hparams_of(config))).config == config


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
    assert result.notes[0] == (
        "a custom architecture, not one of the official variants: efficientnet-b0, BiFPN 1 x 8 channels, "
        "weighted fusion, heads x 1, levels 3-5; unspecified settings default to d0's"
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
    origin = FROM_SHAPES if fusion == "sum" else ASSUMED  # which kind of weights, no shape shows
    assert (result.config.fusion, result.origins["fusion"]) == (fusion, origin)


def test_a_file_distinguishes_softmax_from_fast_normalised_fusion() -> None:
    result = settled(get_config("d6", fusion="attn"), from_file(fpn_weight_method="attn"))
    assert (result.config.fusion, result.origins["fusion"]) == ("attn", "config.yaml")


def test_the_last_source_of_a_value_decides() -> None:
    file, option = from_file(image_size="640x384", anchor_scale=3.0, num_classes=90), ("--hparams", {"anchor_scale": 5})
    result = settled("d0", file, option)
    assert (result.config.image_size, result.config.anchor_scale) == ((384, 640), 5.0)
    names = ("image_size", "anchor_scale", "num_classes", "mean_rgb")
    origins = ["config.yaml", "--hparams", FROM_SHAPES, ASSUMED]  # num_classes: confirmed by the file
    assert [result.origins[name] for name in names] == origins
    assert settled("d0", option, file).config.anchor_scale == 3.0


@pytest.mark.parametrize(
    ("hparams", "words"),
    [
        ({"num_classes": 20}, "config.yaml sets num_classes to 20, but the checkpoint's shapes show 90; fix config.y"),
        (
            {"backbone_name": "efficientnet-b1"},
            "sets backbone_name to efficientnet-b1, but the checkpoint's shapes show",
        ),
        ({"fpn_num_filters": 88}, "sets fpn_num_filters to 88, but the checkpoint's shapes show 64"),
        ({"fpn_cell_repeats": 4}, "sets fpn_cell_repeats to 4, but the checkpoint's shapes show 3"),
        ({"box_class_repeats": 4}, "sets box_class_repeats to 4, but the checkpoint's shapes show 3"),
        ({"max_level": 8}, "sets max_level to 8, but the checkpoint's shapes show 7"),
        ({"fpn_weight_method": "sum"}, "sets fpn_weight_method to 'sum', but the checkpoint's fusion is weighted"),
    ],
)
def test_contradictions_are_refused(hparams: dict[str, Any], words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        settled("d0", ("config.yaml", hparams))


def test_fusion_weights_that_do_not_exist_are_refused() -> None:
    with pytest.raises(
        ConversionError, match="sets fpn_weight_method to 'attn', but the checkpoint's fusion is unweighted"
    ):
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
    assert (result.config, result.origins["num_scales"]) == (config, ASSUMED)
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


# What TensorFlow's graph shows.

GRAPH = "graph (model.meta)"


def with_graph(config: EfficientDetConfig | str, shown: dict[str, Any], *given: Any, **options: Any) -> Settings:
    graph = GraphEvidence(GRAPH, shown, notes=("image_size is not clear",))
    source = MemorySource({}, given=given, graph=lambda: graph)
    return settle_detector(architecture(config), Request(source, **options))


def test_a_graph_shows_what_nobody_states() -> None:
    shown = {"act_type": "relu6", "survival_prob": True, "conv_after_downsample": False, "image_size": "640x384"}
    result = with_graph("d0", shown)
    config = get_config("d0", activation="relu6", survival_prob=1.0, image_size=(384, 640))
    assert result.config == config
    assert list(result.assumed) == [name for name in HIDDEN if name not in shown]
    assert {field for field, origin in result.origins.items() if origin == GRAPH} == {
        *("activation", "survival_prob", "conv_after_downsample", "image_size"),
    }
    assert result.notes == ("image_size is not clear",)


def test_the_graph_of_a_usual_pyramid_names_it() -> None:
    nodes = [{"feat_level": level, "inputs_offsets": list(offsets)} for level, offsets in get_config("d0").cell]
    graph = {"fpn_config": {"nodes": nodes, "weight_method": "attn"}}
    result = with_graph("d0", graph)
    assert result.config == get_config("d0", fusion="attn")
    assert (result.origins["fpn_name"], result.origins["fpn_config"], result.origins["fusion"]) == (GRAPH,) * 3
    stated = with_graph("d0", graph, from_file(**graph))  # the same nodes, spelled out by the other source
    assert stated.config.cell == get_config("d0").cell
    other = {"fpn_config": {"nodes": [{**nodes[0], "inputs_offsets": [3, 2]}, *nodes[1:]], "weight_method": "attn"}}
    with pytest.raises(ConversionError, match=r"^config.yaml sets fpn_config to .* but the graph \(model.meta\) has"):
        with_graph("d0", graph, from_file(**other))


def test_a_graph_confirms_a_statement() -> None:
    graph = {"act_type": "swish", "survival_prob": True}
    result = with_graph("d0", graph, from_file(act_type="silu", survival_prob=0.7))
    assert (result.config.activation, result.config.survival_prob) == ("swish", 0.7)
    assert (result.origins["activation"], result.origins["survival_prob"]) == (GRAPH, GRAPH)


@pytest.mark.parametrize(
    ("shown", "stated"),
    [
        ({"act_type": "relu6"}, {"act_type": "swish"}),
        ({"survival_prob": False}, {"survival_prob": 0.8}),
        ({"survival_prob": True}, {"survival_prob": None}),
        ({"fpn_weight_method": "attn"}, {"fpn_weight_method": None}),
        ({"conv_after_downsample": True}, {"conv_after_downsample": False}),
        ({"image_size": 640}, {"image_size": 512}),
    ],
)
def test_a_graph_that_contradicts_a_statement_is_an_error(shown: dict[str, Any], stated: dict[str, Any]) -> None:
    name = next(iter(shown))
    with pytest.raises(ConversionError, match=rf"^config.yaml sets {name} to .* has .*; fix config.yaml$"):
        with_graph("d0", shown, from_file(**stated))
    if name == "image_size":  # the user may choose another
        result = with_graph("d0", shown, hparams=stated)
        assert result.config.image_size == (512, 512)
        assert "the former is used" in result.notes[-1]
    else:
        with pytest.raises(ConversionError, match=rf"^--hparams sets {name} to"):
            with_graph("d0", shown, hparams=stated)


def test_a_converted_file_hands_its_origins_on() -> None:
    config = get_config("d0", survival_prob=0.8)
    metadata = "its metadata", hparams_of(config)
    of_file = {"activation": "config.yaml", "survival_prob": "--hparams", "image_size": "assumed"}
    source = MemorySource({}, given=(metadata,), origins=of_file)
    result = settle_detector(architecture("d0"), Request(source))
    assert result.config == config
    assert {field: result.origins[field] for field in of_file} == of_file
    assert result.origins["conv_after_downsample"] == ASSUMED  # an earlier version did not read it
    assert {"image_size", "conv_after_downsample"} <= result.assumed.keys()
    assert not {"act_type", "survival_prob"} & result.assumed.keys()
    nothing = MemorySource({}, given=(metadata,))  # a config without origins
    assert settle_detector(architecture("d0"), Request(nothing)).assumed.keys() >= {"act_type", "survival_prob"}
    source = MemorySource({}, given=(metadata,), origins={**of_file, "image_size": "variant default"})
    assert "image_size" in settle_detector(architecture("d0"), Request(source)).assumed


@pytest.mark.parametrize("lacking", ["", "seg_num_classes"])  # of a file from before that setting
def test_a_file_that_is_converted_again_states_no_new_assumptions(lacking: str) -> None:
    first = settled(get_config("d0"), ("config.yaml", hparams_of(get_config("d0"))))
    of_file = {name: origin for name, origin in first.origins.items() if name not in (*NO_SETTINGS, lacking)}
    source = MemorySource({}, given=(("its metadata", hparams_of(first.config)),), origins=of_file)
    again = settle_detector(architecture("d0"), Request(source))
    assert again.assumed == {}
    assert {name: origin for name, origin in again.origins.items() if of_file.get(name) != origin} == (
        {lacking: FROM_SHAPES} if lacking else {}
    )


def test_the_demo_of_segmentation_has_another_input() -> None:
    config = small_config(heads=("segmentation",))
    result = settled(config)
    assert any("mean_rgb=0,stddev_rgb=255 if it trained this" in note for note in result.notes)
    told = settled(config, hparams="mean_rgb=0,stddev_rgb=255")
    assert not any("demo" in note for note in told.notes)
    assert (told.config.mean_rgb, told.config.std_rgb) == ((0.0,) * 3, (255.0,) * 3)
    assert not any("demo" in note for note in settled(small_config()).notes)


def test_levels_that_only_the_heads_would_show() -> None:
    config = small_config(heads=("segmentation",), min_level=2, max_level=5)
    assert settled(config).config.levels == range(3, 7)
    assert settled(config).assumed["min_level"] == 3
    stated = settled(config, from_file(min_level=2, max_level=5))
    assert (stated.config.levels, stated.config.image_size) == (range(2, 6), (512, 512))
    assert "min_level" not in stated.assumed
    with pytest.raises(ConversionError, match="sets seg_num_classes to 9, but the checkpoint's shapes show 3"):
        settled(config, from_file(seg_num_classes=9))
    with pytest.raises(ConversionError, match=r"sets heads to .*object_detection"):
        settled(config, from_file(heads=["object_detection"]))


def test_an_image_size_that_no_command_could_use() -> None:
    with pytest.raises(ConfigError, match=r"image size 96x32 .* too small for levels 3 to 7: .* at least 65 pixels"):
        settled("d0", hparams="image_size=96x32")
    assert settled("d0", hparams="image_size=96X65").config.image_size == (65, 96)  # negative control


def test_an_image_size_that_does_not_fit_the_head() -> None:
    config = get_config("lite0", heads=("segmentation",), image_size=384)
    with pytest.raises(ConfigError, match="use sides that are multiples of 128 pixels"):
        settled(config)
    assert settled(config, hparams="image_size=384").config.image_size == (384, 384)
