"""Official hyperparameters as the reference reads them: what overrides what, and what is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from converter.hparams.fields import hparams_of
from effdet_torch.config import VARIANTS, get_config
from verify.errors import ReferenceModelError
from verify.reference.official.defaults import BLOCKS
from verify.reference.official.hparams import Hparams, read_hparams
from verify.reference.official.values import FpnNode

NODES = [{"feat_level": level, "inputs_offsets": offsets} for level, offsets in ((3, [0, 2]), (4, [1, 3]), (5, [2]))]


def d0(**values: Any) -> Hparams:
    return read_hparams(values, variant="d0")


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_tables_of_variants_agree(variant: str) -> None:
    """Written twice, from the same official code."""
    assert read_hparams(variant=variant) == read_hparams(hparams_of(get_config(variant)))


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"image_size": 640}, "image_size", (640, 640)),
        ({"image_size": "640x384"}, "image_size", (384, 640)),
        ({"image_size": (384, 640)}, "image_size", (384, 640)),
        ({"image_size": "640"}, "image_size", (640, 640)),
        ({"mean_rgb": 127.0}, "mean_rgb", (127.0, 127.0, 127.0)),
        ({"stddev_rgb": [1, 2, 3]}, "stddev_rgb", (1.0, 2.0, 3.0)),
        ({"anchor_scale": "4*4*5*5*6"}, "anchor_scale", (4.0, 4.0, 5.0, 5.0, 6.0)),
        ({"aspect_ratios": [[1.4, 0.7], 4.0]}, "aspect_ratios", ((1.4, 0.7), (2.0, 0.5))),
        ({"survival_prob": None}, "survival_prob", False),
        ({"survival_prob": 0}, "survival_prob", False),
        ({"survival_prob": 0.8}, "survival_prob", True),
        ({"separable_conv": "false"}, "separable_conv", False),
        ({"act_type": "silu"}, "act_type", "silu"),
        ({"fpn_name": None}, "fpn_name", "bifpn"),
        ({"fpn_name": "qufpn"}, "fpn_name", "qufpn"),
        ({"num_classes": 3.0}, "num_classes", 3),
        ({"min_level": 2, "max_level": 5}, "levels", range(2, 6)),
        ({"aspect_ratios": [1.0], "num_scales": 2}, "anchors_per_location", 2),
        ({"backbone_config": {"blocks": [tuple(block) for block in BLOCKS]}}, "backbone_name", "efficientnet-b0"),
        ({"heads": ["object_detection", "segmentation"]}, "heads", {"object_detection", "segmentation"}),
        ({"heads": "segmentation"}, "heads", {"segmentation"}),
    ],
)
def test_a_value(values: Mapping[str, Any], field: str, expected: object) -> None:
    assert getattr(d0(**values), field) == expected


def test_the_last_one_counts() -> None:
    file = {"name": "efficientdet-lite0", "act_type": "hswish", "num_classes": 3}
    found = read_hparams(file, {"act_type": "mish", "learning_rate": 0.1}, variant="d0")
    assert found == replace(read_hparams(variant="lite0"), act_type="mish", num_classes=3)


def test_null_is_the_official_default_and_not_the_variants() -> None:
    assert read_hparams(variant="lite0").fpn_weight_method == "sum"
    assert read_hparams({"fpn_weight_method": None}, variant="lite0").fpn_weight_method == "fastattn"


def test_listed_nodes_override_name_and_method() -> None:
    listed = {"nodes": NODES, "weight_method": "attn"}
    found = d0(fpn_config=listed, fpn_name="qufpn", fpn_weight_method="sum", max_level=5)
    assert found.fpn_weight_method == "attn"
    assert found.fpn_config == (FpnNode(3, (0, 2)), FpnNode(4, (1, 3)), FpnNode(5, (2,)))
    assert d0(fpn_config=None, fpn_weight_method="sum").fpn_weight_method == "sum"


@pytest.mark.parametrize("passed", [{"fpn_config": {"weight_method": "sum"}}, {"fpn_config.weight_method": "sum"}])
def test_a_part_overrides_a_part(passed: Mapping[str, Any]) -> None:
    file = {"max_level": 5, "fpn_config": {"nodes": NODES, "weight_method": "attn"}}
    found = read_hparams(file, passed, variant="d0")
    assert found.fpn_weight_method == "sum"
    assert found.fpn_config is not None
    assert file["fpn_config"] == {"nodes": NODES, "weight_method": "attn"}  # left as it was


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"act_type": "srelu"}, "act_type is 'srelu', which the reference cannot compute: expected one of swish"),
        ({"act_type": None}, "act_type is None"),
        ({"act_type": ["relu"]}, "act_type"),
        ({"fpn_weight_method": "fast"}, "fpn_weight_method is 'fast'"),
        ({"fpn_name": "fpn"}, "fpn_name is 'fpn'"),
        ({"backbone_name": "efficientnetv2-b0"}, "backbone_name"),
        ({"heads": ["depth"]}, "heads is .*object_detection, segmentation"),
        ({"heads": []}, "heads is .*object_detection, segmentation"),
        ({"heads": None}, "heads is None"),
        ({"num_classes": 0}, "num_classes is 0.*positive whole number"),
        ({"num_classes": True}, "num_classes is True"),
        ({"num_classes": None}, "num_classes is None"),
        ({"image_size": "640x"}, "image_size"),
        ({"image_size": "axb"}, "image_size"),
        ({"mean_rgb": [1, 2]}, "mean_rgb.*one number or three"),
        ({"aspect_ratios": [-1.0]}, "aspect_ratios"),
        ({"aspect_ratios": []}, "aspect_ratios.*at least one"),
        ({"anchor_scale": [4, 5]}, "anchor_scale has 2 values.*each of the 5 levels"),
        ({"separable_conv": "maybe"}, "separable_conv is 'maybe'.*true or false"),
        ({"min_level": 5, "max_level": 5}, "min_level 5, max_level 5"),
        ({"max_level": 4}, "max_level 4"),
        ({"fpn_config": {"nodes": NODES}}, "fpn_config has no weight_method"),
        ({"fpn_config.weight_method": "sum"}, "fpn_config has no nodes"),
        ({"fpn_config": "x"}, "fpn_config has no nodes"),
        ({"fpn_config": {"nodes": NODES, "weight_method": None}, "max_level": 5}, "fpn_config.weight_method is None"),
        ({"fpn_config": {"nodes": NODES, "weight_method": "sum"}}, "no node on some of the levels 3 to 7"),
        (
            {"fpn_config": {"nodes": [{"feat_level": 3, "inputs_offsets": [5]}], "weight_method": "sum"}},
            "fpn_config: node 0",
        ),
        (
            {"fpn_config": {"nodes": [{"feat_level": 3, "inputs_offsets": []}], "weight_method": "sum"}},
            "fpn_config is .*inputs_offsets",
        ),
        ({"backbone_config": {"blocks": [(3, 1)] * 7}}, "backbone_config has the block"),
        ({"backbone_config": {"blocks": BLOCKS[:6]}}, "expected 7 blocks"),
        (
            {"backbone_config": {"blocks": [*BLOCKS[:2], (*BLOCKS[2][:5], False, *BLOCKS[2][6:]), *BLOCKS[3:]]}},
            "backbone_config changes id_skip of stage 2 to False; .*which have True",
        ),
    ],
)
def test_what_the_reference_cannot_compute_is_refused_by_name(values: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ReferenceModelError, match=words):
        d0(**values)


def test_no_variant() -> None:
    with pytest.raises(ReferenceModelError, match="no official variant is named; known are d0, "):
        read_hparams({"name": "mine"})


def test_a_value_from_a_stranger_is_shown_short() -> None:
    nested: list[Any] = ["x" * 1000]
    for _ in range(40):
        nested = [nested] * 10
    with pytest.raises(ReferenceModelError, match="act_type is") as caught:
        d0(act_type=nested)
    assert len(str(caught.value)) < 1000
