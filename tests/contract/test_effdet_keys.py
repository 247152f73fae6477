"""Our state_dict has the keys and shapes of the `effdet` package, so files are interchangeable in both directions."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from effdet_torch import create_model, list_models
from effdet_torch.config import PACKAGE_VARIANTS
from support.quick import mostly_slow

Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def effdet_shapes(effdet: ModuleType, variant: str, redundant_bias: bool) -> Shapes:
    config = effdet.get_efficientdet_config(variant if variant in PACKAGE_VARIANTS else f"tf_efficientdet_{variant}")
    config.redundant_bias, config.head_bn_level_first = redundant_bias, False
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shapes_of(effdet.EfficientDet(config, pretrained_backbone=False))


def our_shapes(variant: str, **overrides: Any) -> Shapes:
    with torch.device("meta"):
        return shapes_of(create_model(variant, **overrides))


CASES = {f"{variant}-{bias}": (variant, bias) for variant in list_models() for bias in (False, True)}
QUICK = {name for name, (variant, bias) in CASES.items() if not bias or variant in ("d0", "lite0", "efficientdet_q0")}


@pytest.mark.parametrize("case", mostly_slow(CASES, QUICK))
def test_keys_and_shapes_are_those_of_effdet(effdet: ModuleType, case: str) -> None:
    variant, redundant_bias = CASES[case]
    assert our_shapes(variant, redundant_bias=redundant_bias) == effdet_shapes(effdet, variant, redundant_bias)


def test_another_architecture_is_noticed(effdet: ModuleType) -> None:
    expected = effdet_shapes(effdet, "lite0", redundant_bias=False)
    assert our_shapes("lite0", redundant_bias=True).keys() > expected.keys()
    assert our_shapes("lite0", fpn_cells=4).keys() > expected.keys()
    assert our_shapes("lite0", num_classes=20) != expected
