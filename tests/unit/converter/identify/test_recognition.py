"""What a checkpoint is, told by its names and shapes alone."""

from __future__ import annotations

from typing import Any

import pytest

from converter.errors import UnsupportedSourceError
from converter.identify.recognition import ARCHITECTURE, Architecture, recognize_architecture
from converter.plan.table import load_table
from converter.source import VariableInfo
from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from support.sources import averages, placeholders, plan_of, shapes_of, small_config


def stored(config: EfficientDetConfig | str) -> dict[str, VariableInfo]:
    return shapes_of(placeholders(plan_of(config)))


def recognized(variables: dict[str, VariableInfo]) -> Architecture:
    return recognize_architecture(variables, load_table())


@pytest.mark.parametrize("variant", VARIANTS)
def test_recognises_every_variant_by_its_own_variables(variant: str) -> None:
    config, found = get_config(variant), recognized(stored(variant))
    assert found.variants() == (["d6", "d7"] if variant in ("d6", "d7") else [variant])
    assert {name: getattr(found, name) for name in ARCHITECTURE} == {n: getattr(config, n) for n in ARCHITECTURE}
    assert (found.weighted, found.num_classes, found.anchors_per_location) == (config.fusion != "sum", 90, 9)
    assert [name for name, other in VARIANTS.items() if found.matches(other)] == found.variants()


@pytest.mark.parametrize("classes", [1, 20, 600])
@pytest.mark.parametrize("anchors", [{"num_scales": 1, "aspect_ratios": (1.0,)}, {"num_scales": 5}])
def test_tells_classes_and_anchors_apart(classes: int, anchors: dict[str, Any]) -> None:
    config = small_config(num_classes=classes, **anchors)
    found = recognized(stored(config))
    assert (found.num_classes, found.anchors_per_location) == (classes, config.anchors_per_location)


@pytest.mark.parametrize("max_level", [5, 6, 7, 8])
def test_counts_the_levels(max_level: int) -> None:
    found = recognized(stored(get_config("d0", max_level=max_level)))
    assert found.max_level == max_level
    assert found.variants() == (["d0"] if max_level == 7 else [])


@pytest.mark.parametrize("fusion", ["fastattn", "attn", "sum"])
def test_tells_weighted_fusion_from_a_sum(fusion: str) -> None:
    assert recognized(stored(small_config(fusion=fusion))).weighted == (fusion != "sum")


@pytest.mark.parametrize("change", [{"fpn_channels": 72}, {"fpn_cells": 4}, {"head_repeats": 2}, {"fusion": "sum"}])
def test_another_architecture_is_no_official_variant(change: dict[str, Any]) -> None:
    assert recognized(stored(get_config("d0", **change))).variants() == []
    assert recognized(stored("d0")).variants() == ["d0"]


def test_other_copies_and_slots_do_not_disturb() -> None:
    arrays = placeholders(plan_of("d0"))
    slots = {f"{name}/Momentum": array for name, array in arrays.items()}
    assert recognized(shapes_of({**arrays, **averages(arrays), **slots})) == recognized(shapes_of(arrays))


def test_one_copy_is_enough_whichever_it_is() -> None:
    arrays = placeholders(plan_of("d6"))
    assert recognized(shapes_of(averages(arrays))) == recognized(shapes_of(arrays))


def test_describes_itself() -> None:
    text = recognized(stored("d0")).describe()
    assert text == "efficientnet-b0, BiFPN 3 x 64 channels, weighted fusion, heads x 3, levels 3-7"
    assert "unweighted fusion" in recognized(stored("d7x")).describe()


@pytest.mark.parametrize(
    ("prefix", "question"),
    [
        ("efficientnet-b0/stem", "backbone is read from {backbone}/stem/conv2d"),
        ("fpn_cells/", "fpn_cells is read from fpn_cells/cell_{n}"),
        ("class_net/class-0-bn-3", "num_levels is read from class_net/class-0-bn-{n}"),
        ("class_net/class-predict", "class_channels is read from class_net/class-predict/bias"),
        ("box_net/", "box_channels is read from box_net/box-predict/bias"),
    ],
)
def test_says_what_is_not_there(prefix: str, question: str) -> None:
    variables = {name: info for name, info in stored(small_config()).items() if not name.startswith(prefix)}
    with pytest.raises(UnsupportedSourceError) as caught:
        recognized(variables)
    assert question in str(caught.value)
    assert f"({len(variables)} names; it begins with {min(variables)})" in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"resnet/conv/kernel": VariableInfo("float32", (7, 7, 3, 64))},
        {"global_step": VariableInfo("int64", ())},
        {"": VariableInfo("float32", ())},
    ],
)
def test_another_network_is_named_as_such(variables: dict[str, VariableInfo]) -> None:
    with pytest.raises(UnsupportedSourceError, match=r"^these are not the variables of an EfficientDet: backbone"):
        recognized(variables)


def test_a_backbone_alone_is_no_detector() -> None:
    variables = {name: info for name, info in stored("d0").items() if name.startswith("efficientnet-b0/")}
    with pytest.raises(UnsupportedSourceError, match="fpn_channels is read from class_net/class-0/pointwise_kernel"):
        recognized(variables)


def test_a_kernel_of_too_few_axes_is_no_answer() -> None:
    variables = stored("d0") | {"class_net/class-0/pointwise_kernel": VariableInfo("float32", (64,))}
    with pytest.raises(UnsupportedSourceError, match="fpn_channels is read from"):
        recognized(variables)


@pytest.mark.parametrize(("boxes", "classes"), [(35, 810), (0, 810), (36, 811), (2, 90)])
def test_a_custom_head_is_refused(boxes: int, classes: int) -> None:
    heads = {"box_net/box-predict/bias": boxes, "class_net/class-predict/bias": classes}
    changed = {name: VariableInfo("float32", (size,)) for name, size in heads.items()}
    with pytest.raises(UnsupportedSourceError) as caught:
        recognized(stored("d0") | changed)
    assert f"a custom head: the box prediction has {boxes} channels (expected anchors x 4)" in str(caught.value)
    assert f"the class prediction {classes} (expected anchors x classes)" in str(caught.value)
