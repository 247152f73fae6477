"""Recognise a network by its names and shapes alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from converter.errors import UnsupportedSourceError
from converter.identify.architecture import ARCHITECTURE
from converter.identify.families import BACKBONE, DETECTOR, FAMILIES, family_of
from converter.identify.naming import drop_outer, undo_counters
from converter.source import VariableInfo
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from support.sources import MemorySource, architecture_of, averages, placeholders, plan_of, shapes_of, small_config


def stored(config: EfficientDetConfig | str) -> dict[str, VariableInfo]:
    return shapes_of(placeholders(plan_of(config)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_recognises_every_variant_by_its_own_variables(variant: str) -> None:
    config, found = get_config(variant), architecture_of(stored(variant))
    assert found.variants() == (["d6", "d7"] if variant in ("d6", "d7") else [variant])
    assert {name: getattr(found, name) for name in ARCHITECTURE} == {n: getattr(config, n) for n in ARCHITECTURE}
    weights = "unweighted" if config.fusion == "sum" else "weighted"
    assert (found.fusion_weights, found.num_classes, found.anchors_per_location) == (weights, 90, 9)
    assert [name for name, other in VARIANTS.items() if found.matches(other)] == found.variants()


@pytest.mark.parametrize(
    "change",
    [
        *({"max_level": level} for level in (5, 6, 8)),
        *({"fusion": "sum"}, {"fpn_channels": 72}, {"fpn_cells": 4}, {"head_repeats": 2}),
        *({"min_level": 2}, {"min_level": 4}, {"fusion": "channel_attn"}, {"separable_conv": False}),
        *({"apply_bn_for_resampling": False}, {"conv_bn_act_pattern": True}, {"fpn_name": "qufpn"}),
    ],
)
def test_another_architecture_is_not_an_official_variant(change: dict[str, Any]) -> None:
    config = get_config("d0", **change)
    found = architecture_of(stored(config))
    assert (found.variants(), found.matches(config)) == ([], True)


@pytest.mark.parametrize("variant", ["d0", "d6"])
def test_any_copy_is_enough_and_others_do_not_matter(variant: str) -> None:
    raw = placeholders(plan_of(variant))
    slots = {f"{name}/Momentum": array for name, array in raw.items()}
    found = [architecture_of(copies) for copies in (raw, averages(raw), {**raw, **averages(raw), **slots})]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("efficientnet-b0/stem", "one of the scopes efficientnet-b0/stem/conv2d, efficientnet-b1/stem/conv2d"),
        ("fpn_cells/", "the scope fpn_cells/cell_0"),
        ("class_net/class-0-bn-", "a scope class_net/class-0-bn-{n}"),
        ("class_net/class-predict", "the variable class_net/class-predict/bias with at least 1 axes"),
        ("box_net/", "the variable box_net/box-predict/bias"),
    ],
)
def test_an_incomplete_detector_is_named_with_what_it_lacks(prefix: str, expected: str) -> None:
    variables = {name: info for name, info in stored(small_config()).items() if not name.startswith(prefix)}
    with pytest.raises(UnsupportedSourceError) as caught:
        architecture_of(variables)
    beginning = "folder/model: an incomplete EfficientDet, or one with different layers: expected "
    assert str(caught.value).startswith(f"{beginning}{expected}")
    assert f"found {len(variables)} variables ({min(variables)}, " in str(caught.value)


def test_a_variable_with_too_few_axes_is_refused() -> None:
    variables = stored("d0") | {"class_net/class-0/bias": VariableInfo("float32", ())}
    with pytest.raises(
        UnsupportedSourceError, match="class_net/class-0/bias or segmentation_head/bn_0/gamma with at least 1 axes"
    ):
        architecture_of(variables)


def test_a_backbone_alone_belongs_to_another_family() -> None:
    variables = {name: info for name, info in stored("d0").items() if name.startswith("efficientnet-b0/")}
    family, found = family_of(MemorySource(variables))
    assert (family, found.describe(), found.variants()) == (BACKBONE, "efficientnet-b0, without a detector", [])
    assert family_of(MemorySource(stored("d0")))[0] is DETECTOR


@pytest.mark.parametrize(("boxes", "classes"), [(35, 810), (0, 810), (36, 811), (2, 90)])
def test_a_custom_head_is_refused(boxes: int, classes: int) -> None:
    heads = {"box_net/box-predict/bias": boxes, "class_net/class-predict/bias": classes}
    changed = {name: VariableInfo("float32", (size,)) for name, size in heads.items()}
    with pytest.raises(UnsupportedSourceError) as caught:
        architecture_of(stored("d0") | changed)
    assert f"folder/model: a custom head: the box prediction has {boxes} channels" in str(caught.value)
    assert f"the class prediction {classes} (expected anchors x classes)" in str(caught.value)


OTHER_NETWORKS = {
    "the EdgeTPU backbone efficientnet-edgetpu-S of the official tpu repository": "efficientnet-edgetpu-S/stem/x",
    "the CondConv backbone efficientnet-condconv-b0-8e of the official": "efficientnet-condconv-b0-8e/stem/x",
    "the EfficientDet of zylo117 (Yet-": "classifier.conv_list.0.pointwise_conv.conv.bias",
    "the EfficientDet of signatrix": "regressor.layers.0.weight",
    "the EfficientDet of MMDetection": "neck.bifpn.0.conv6_up.depthwise_conv.weight",
    "the EfficientDet of toandaominh1997": "neck.stack_bifpn_convs.0.bifpn_convs.0.conv.weight",
    "a network of keras_cv_attention_models (KECAM)": "biFPN_1_p5_up_wsm/gain",
    "an EfficientNet of the efficientnet_pytorch package": "_blocks.0._bn1.weight",
    "a classifier of torchvision": "features.1.0.block.0.0.weight",
    "a detector of the effdet package whose backbone is not": "backbone.layer1.0.conv1.weight",
    "the classifier or backbone efficientnetv2-s": "efficientnetv2-s/blocks_0/conv2d/kernel",
    "another network of the TF Object Detection API": "WeightSharedConvolutionalBoxPredictor/BoxHead/kernel",
    "a network of keras.applications": "block1a_dwconv/depthwise_kernel",
    "another PyTorch detector or port of EfficientDet": "model.22.cv2.0.0.conv.weight",
    "a classifier": "dense_3/kernel",
    "another network": "encoder/layer_0/query/kernel",
}


@pytest.mark.parametrize("guess", OTHER_NETWORKS)
def test_an_unknown_network_is_described_by_what_it_looks_like(guess: str) -> None:
    names = [OTHER_NETWORKS[guess], "z/a/kernel", "z/b/kernel", "z/c/kernel"]
    with pytest.raises(UnsupportedSourceError) as caught:
        architecture_of({name: VariableInfo("float32", (3, 3)) for name in names})
    text = str(caught.value)
    assert f"It looks like {guess}" in text
    assert ", which is not supported. Supported are" in text
    assert f"this memory holds 4 variables ({', '.join(sorted(names)[:3])}, and 1 more)" in text
    assert all(family.supported in text for family in FAMILIES)
    assert "{" not in text


@pytest.mark.parametrize("names", [[], ["global_step"], [""]])
def test_hardly_any_names_are_not_a_network(names: list[str]) -> None:
    with pytest.raises(UnsupportedSourceError, match=f"holds {len(names) or 'no'} variable"):
        architecture_of({name: VariableInfo("int64", ()) for name in names})


def test_a_name_with_many_scopes_needs_little_memory() -> None:
    name = "a/" * 3000 + "kernel"
    tracemalloc.start()
    with pytest.raises(UnsupportedSourceError, match=r"holds 1 variable \((a/){100}\)\. It looks"):
        architecture_of({name: VariableInfo("float32", (1,))})
    assert undo_counters([name, "b/stem_1/x"]) == {name: name, "b/stem/x": "b/stem_1/x"}
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("given", "official"),
    [
        (("s/bn_0/gamma", "s/bn_1/gamma", "s/bn_2/gamma"), ("s/bn_0/gamma", "s/bn_1/gamma", "s/bn_2/gamma")),
        (("s/bn_1/gamma", "s/bn_2/gamma"), ("s/bn/gamma", "s/bn_1/gamma")),
        (("s/bn_0/gamma", "t/bn_1/gamma"), ("s/bn_0/gamma", "t/bn/gamma")),
    ],
    ids=["a list", "a counter", "a list in another scope"],
)
def test_counters_are_undone_only_where_they_are_counters(given: tuple[str, ...], official: tuple[str, ...]) -> None:
    assert undo_counters(given) == dict(zip(official, given, strict=True))


@pytest.mark.parametrize(
    ("given", "inner"),
    [
        (("hub/class_net/bias", "step"), ("class_net/bias", "step")),
        (
            ("a/b/efficientnet-b0/stem/x", "a/b/resample_p6/x", "a/c"),
            ("efficientnet-b0/stem/x", "resample_p6/x", "a/c"),
        ),
        (("class_net/bias", "shadow/class_net/bias"), ("class_net/bias", "shadow/class_net/bias")),
        (("a/fpn_cells/x", "a/fpn_cells/y", "b/fpn_cells/y"), ("a/fpn_cells/x", "a/fpn_cells/y", "b/fpn_cells/y")),
        (("resnet/conv1/kernel",), ("resnet/conv1/kernel",)),
    ],
    ids=["a module", "nested", "a copy", "two models", "another network"],
)
def test_scopes_of_an_outer_model(given: tuple[str, ...], inner: tuple[str, ...]) -> None:
    assert drop_outer(given) == dict(zip(inner, given, strict=True))


@pytest.mark.parametrize("heads", [("segmentation",), ("object_detection", "segmentation")])
@pytest.mark.parametrize("classes", [3, 21])
@pytest.mark.parametrize("max_level", [5, 8])
def test_a_segmentation_head_is_recognised(heads: tuple[str, ...], classes: int, max_level: int) -> None:
    config = small_config(heads=heads, seg_num_classes=classes, max_level=max_level, num_classes=7)
    found = architecture_of(placeholders(plan_of(config)))
    assert (found.heads, found.seg_num_classes, found.max_level) == (heads, classes, max_level)
    assert found.num_classes == (7 if config.detects else None)
    assert plan_of(found.config()).variables == plan_of(config).variables
    assert f"segmentation head of {classes} classes" in found.describe()


def test_a_broken_segmentation_head_is_refused() -> None:
    arrays = placeholders(plan_of(small_config(heads=("segmentation",))))
    without = {name: array for name, array in arrays.items() if not name.endswith("conv2d_transpose_2/bias")}
    with pytest.raises(UnsupportedSourceError, match="a segmentation head with its last layer; found neither"):
        architecture_of(without)
    headless = {name: array for name, array in arrays.items() if not name.startswith("segmentation_head/")}
    with pytest.raises(UnsupportedSourceError, match=r"expected the variable class_net/.* or segmentation_head/"):
        architecture_of(headless)


def test_transposed_convolutions_of_a_later_model_in_a_process() -> None:
    official = [
        f"segmentation_head/{name}/kernel" for name in ("conv2d_transpose", "conv2d_transpose_1", "bn_0", "bn_1")
    ]
    later = [official[0].replace("transpose", "transpose_5"), official[1].replace("_1/", "_6/"), *official[2:]]
    assert undo_counters(later) == dict(zip(official, later, strict=True))
