"""What a checkpoint is, told by its names and shapes alone."""

from __future__ import annotations

from typing import Any

import pytest

from converter.errors import UnsupportedSourceError
from converter.identify.architecture import ARCHITECTURE
from converter.identify.families import BACKBONE, DETECTOR, FAMILIES, family_of
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
    assert (found.weighted, found.num_classes, found.anchors_per_location) == (config.fusion != "sum", 90, 9)
    assert [name for name, other in VARIANTS.items() if found.matches(other)] == found.variants()


@pytest.mark.parametrize("classes", [1, 20, 600])
@pytest.mark.parametrize("anchors", [{"num_scales": 1, "aspect_ratios": (1.0,)}, {"num_scales": 5}])
def test_tells_classes_and_anchors_apart(classes: int, anchors: dict[str, Any]) -> None:
    config = small_config(num_classes=classes, **anchors)
    found = architecture_of(stored(config))
    assert (found.num_classes, found.anchors_per_location) == (classes, config.anchors_per_location)


@pytest.mark.parametrize("max_level", [5, 6, 7, 8])
def test_counts_the_levels(max_level: int) -> None:
    found = architecture_of(stored(get_config("d0", max_level=max_level)))
    assert found.max_level == max_level
    assert found.variants() == (["d0"] if max_level == 7 else [])


@pytest.mark.parametrize("fusion", ["fastattn", "attn", "sum"])
def test_tells_weighted_fusion_from_a_sum(fusion: str) -> None:
    assert architecture_of(stored(small_config(fusion=fusion))).weighted == (fusion != "sum")


@pytest.mark.parametrize("change", [{"fpn_channels": 72}, {"fpn_cells": 4}, {"head_repeats": 2}, {"fusion": "sum"}])
def test_another_architecture_is_no_official_variant(change: dict[str, Any]) -> None:
    assert architecture_of(stored(get_config("d0", **change))).variants() == []
    assert architecture_of(stored("d0")).variants() == ["d0"]


def test_other_copies_and_slots_do_not_disturb() -> None:
    arrays = placeholders(plan_of("d0"))
    slots = {f"{name}/Momentum": array for name, array in arrays.items()}
    assert architecture_of(shapes_of({**arrays, **averages(arrays), **slots})) == architecture_of(shapes_of(arrays))


def test_one_copy_is_enough_whichever_it_is() -> None:
    arrays = placeholders(plan_of("d6"))
    assert architecture_of(shapes_of(averages(arrays))) == architecture_of(shapes_of(arrays))


def test_describes_itself() -> None:
    text = architecture_of(stored("d0")).describe()
    assert text == "efficientnet-b0, BiFPN 3 x 64 channels, weighted fusion, heads x 3, levels 3-7"
    assert "unweighted fusion" in architecture_of(stored("d7x")).describe()


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("efficientnet-b0/stem", "one of the scopes efficientnet-b0/stem/conv2d, efficientnet-b1/stem/conv2d"),
        ("fpn_cells/", "the scope fpn_cells/cell_0"),
        ("class_net/class-0-bn-3", "the scope class_net/class-0-bn-3"),
        ("class_net/class-predict", "the variable class_net/class-predict/bias with at least 1 axes"),
        ("box_net/", "the variable box_net/box-predict/bias"),
    ],
)
def test_an_incomplete_detector_is_named_with_what_it_lacks(prefix: str, expected: str) -> None:
    variables = {name: info for name, info in stored(small_config()).items() if not name.startswith(prefix)}
    with pytest.raises(UnsupportedSourceError) as caught:
        architecture_of(variables)
    text = str(caught.value)
    assert "an incomplete EfficientDet" in text
    assert f"expected {expected}" in text
    assert f"found {len(variables)} variables ({min(variables)}, " in text


def test_a_kernel_of_too_few_axes_is_no_answer() -> None:
    variables = stored("d0") | {"class_net/class-0/pointwise_kernel": VariableInfo("float32", (64,))}
    with pytest.raises(UnsupportedSourceError, match="class-0/pointwise_kernel with at least 4 axes"):
        architecture_of(variables)


def test_a_backbone_alone_belongs_to_its_own_family() -> None:
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
    "the classifier or backbone efficientnet-edgetpu-S": "efficientnet-edgetpu-S/stem/conv2d/kernel",
    "the classifier or backbone efficientnet-b8": "efficientnet-b8/blocks_0/conv2d/kernel",
    "a network of the TF Object Detection API": "WeightSharedConvolutionalBoxPredictor/BoxHead/kernel",
    "an EfficientDet with a segmentation head": "segmentation_head/conv2d_transpose/kernel",
    "a network of keras.applications": "block1a_dwconv/depthwise_kernel",
    "another PyTorch detector or port of EfficientDet": "backbone_net.model._conv_stem.weight",
    "a classifier": "dense_3/kernel",
    "another network": "encoder/layer_0/query/kernel",
}


@pytest.mark.parametrize("guess", OTHER_NETWORKS)
def test_a_network_of_no_family_is_answered_with_what_it_looks_like(guess: str) -> None:
    names = [OTHER_NETWORKS[guess], "z/a/kernel", "z/b/kernel", "z/c/kernel"]
    with pytest.raises(UnsupportedSourceError) as caught:
        architecture_of({name: VariableInfo("float32", (3, 3)) for name in names})
    text = str(caught.value)
    assert f"It looks like {guess}, which is not supported" in text
    assert f"this memory holds 4 variables ({', '.join(sorted(names)[:3])}, and 1 more)" in text
    assert all(family.supported in text for family in FAMILIES)
    assert "{" not in text


@pytest.mark.parametrize("names", [[], ["global_step"], [""]])
def test_hardly_any_names_are_no_network(names: list[str]) -> None:
    with pytest.raises(UnsupportedSourceError, match=f"holds {len(names) or 'no'} variable"):
        architecture_of({name: VariableInfo("int64", ()) for name in names})
