"""The table of the Object Detection API: all names and shapes are the API's, and the proof reads the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from converter.errors import AccountingError
from converter.identify.families import DETECTOR, OBJECT_DETECTION_API
from converter.identify.object_detection_api.network import taps
from converter.plan.copies import select_view
from converter.plan.engine import account
from converter.plan.expand import Plan
from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.network.model import EfficientDet
from support.sources import MemorySource, architecture_of, placeholders
from verify.reference.object_detection_api.variables import ApiVariables, seen_in_api

# Of the variables that the API's own code (2.8.0, TensorFlow 2.15) makes, without the classifier: how many, and the
# beginning of the SHA-256 of the sorted lines "NAME SHAPE". D7 has those of D6.
ORACLE = {
    "d0": (676, "64d8f47340acaf13"),
    "d1": (868, "2badd052388d8c26"),
    "d2": (932, "05927c6412f2ff4e"),
    "d3": (1099, "df9b403ea0976855"),
    "d4": (1277, "ec765768b5fa35c2"),
    "d5": (1405, "f270ccf19223d2cb"),
    "d6": (1565, "c166d84e08a8e970"),
    "d7": (1565, "c166d84e08a8e970"),
}


def config_of(variant: str) -> EfficientDetConfig:
    config = get_config(variant)
    return replace(config, taps=taps(config.backbone, config.min_level), anchor_scale=4.0)


def plan_of(variant: str) -> Plan:
    return OBJECT_DETECTION_API.plan(config_of(variant))


@pytest.mark.parametrize("variant", ORACLE)
def test_names_and_shapes_are_those_of_the_api(variant: str) -> None:
    whole = OBJECT_DETECTION_API.plan(replace(config_of(variant), taps=()))  # with the blocks that feed nothing
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in whole.variables.items()))
    assert (len(whole.variables), hashlib.sha256(lines.encode()).hexdigest()[:16]) == ORACLE[variant]


@pytest.mark.parametrize("variant", ORACLE)
def test_every_tensor_of_the_model_has_its_variables(variant: str) -> None:
    plan = plan_of(variant)
    with torch.device("meta"):
        model = EfficientDet(config_of(variant))
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == {
        key: entry.target_shape for key, entry in plan.targets.items()
    }


@pytest.mark.parametrize("variant", ORACLE)
def test_the_variant_is_recognised_and_everything_accounted_for(variant: str) -> None:
    plan, whole = plan_of(variant), OBJECT_DETECTION_API.plan(replace(config_of(variant), taps=()))
    classifier = {name: np.zeros(1, np.float32) for name in ("top_conv2d/kernel", "top_bn/gamma", "logits/bias")}
    source = MemorySource({**placeholders(whole), **classifier})
    found = architecture_of(source.arrays)
    assert variant in found.variants()
    accounting = account(source.variables, plan, select_view(source, plan))
    accounting.require_complete(variant)
    unused = whole.variables.keys() - plan.variables.keys()
    assert accounting.ignored.keys() == unused | classifier.keys()
    assert {name.partition("/")[0] for name in unused} == ({"stack_6"} if config_of(variant).taps else set())
    # Negative control: another block is not one of those.
    source = MemorySource({**placeholders(whole), "stack_6/block_9/expand_bn/gamma": np.zeros(8, np.float32)})
    with pytest.raises(AccountingError, match="0 missing, 1 unexpected"):
        account(source.variables, plan, select_view(source, plan)).require_complete(variant)


@pytest.mark.parametrize("variant", ORACLE)
def test_the_proof_finds_the_same_variables_by_rules_of_its_own(variant: str) -> None:
    plan, official = plan_of(variant), DETECTOR.plan(config_of(variant))
    read = ApiVariables(placeholders(plan), octaves=3, coder=(10, 10, 5, 5))
    assert all(name in read for name in official.variables)
    assert {name: read[name].shape for name in official.variables} == official.variables
    assert "class_net/class-9/bias" not in read
    assert {layer.tf for layer in plan.layers} == {read.names.scope(layer.tf) for layer in official.layers}
    # Layer by layer, both names mean the same PyTorch module.
    modules = {(layer.torch, layer.kind): layer.tf for layer in plan.layers}
    for layer in official.layers:
        if layer.kind in ("conv", "batch_norm", "block", "node", "resample", "combine", "separable_before_bn"):
            assert modules[layer.torch, layer.kind] == read.names.scope(layer.tf)
    seen = seen_in_api(plan.variables)
    config = config_of(variant)
    assert seen["fpn_cell_repeats"] == config.fpn_cells
    assert seen["box_class_repeats"] == config.head_repeats
    assert seen["backbone_name"] == config.backbone
    assert seen["fpn_weight_method"] == config.fusion
