"""Graphs of TensorFlow Lite: every configuration gives PyTorch's outputs, with TensorFlow's operations."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from effdet_torch.config import VARIANTS, EfficientDetConfig, get_config
from effdet_torch.engines.document import Interface, plain_profile
from effdet_torch.errors import ConfigError
from effdet_torch.export.tflite.build.network import build_graph, require_possible_model
from effdet_torch.export.tflite.graph import Graph
from effdet_torch.export.tflite.profile import operation_profile
from effdet_torch.export.tflite.serialize import serialize
from effdet_torch.network.model import EfficientDet
from support.golden import error_over_rms
from support.networks import alive
from support.sources import small_config
from support.tflite_graphs import listing_of
from support.tflite_samples import converted, outputs

SMALL: dict[str, Any] = {"image_size": 128, "num_classes": 3}
ONE_INPUT = ((3, (0,)), (4, (1, 3)), (5, (2, 4, 0)))  # a node that adds nothing, and one that skips a level
QUICK: Mapping[str, EfficientDetConfig] = {
    "lite": get_config("lite0", **SMALL, fpn_channels=16, fpn_cells=1),
    "d": small_config(image_size=(100, 150), num_classes=3, max_level=7),
    "attn": small_config(**SMALL, fusion="attn"),
    "not separable": small_config(**SMALL, separable_conv=False, head_repeats=2),
    "one input": small_config(**SMALL, max_level=5, fpn_config=ONE_INPUT, activation="relu6"),
}
SLOW: Mapping[str, EfficientDetConfig] = {
    "sum": small_config(**SMALL, fusion="sum"),
    "channel_fastattn": small_config(**SMALL, fusion="channel_fastattn"),
    "channel_attn": small_config(**SMALL, fusion="channel_attn"),
    "relu": small_config(**SMALL, activation="relu"),
    "hswish": small_config(**SMALL, activation="hswish"),
    "residual heads": small_config(**SMALL, survival_prob=0.8, head_repeats=3),
    "qufpn": small_config(**SMALL, fpn_name="qufpn", max_level=7, fpn_cells=2),
    "no batch norms": small_config(**SMALL, apply_bn_for_resampling=False),
    "pool first": small_config(**SMALL, conv_after_downsample=True),
    "act last": small_config(**SMALL, conv_bn_act_pattern=True),
    "act last, fused": small_config(**SMALL, conv_bn_act_pattern=True, activation="relu6"),
    "biases": small_config(**SMALL, redundant_bias=True),
    "P2": small_config(**SMALL, min_level=2),
    "P8": small_config(image_size=256, num_classes=3, max_level=8),
}
CASES = [pytest.param(config, id=name) for name, config in QUICK.items()]
CASES += [pytest.param(config, id=name, marks=pytest.mark.slow) for name, config in SLOW.items()]
# Of rms: random networks enlarge roundings; a wrong operation is off by more than 1e-2. Measured up to 3.4e-4.
FLOAT = 1e-3
NOT_READ = (QUICK["one input"],)  # its backbone ends early, and the reader knows whole ones


def network_graph(model: EfficientDet) -> Graph:
    return build_graph(model, model.config, Interface(image_size=model.config.image_size))


def worst(model: EfficientDet, other: EfficientDet) -> float:
    """Return the largest error of a model's file, of the rms of the other model's outputs."""
    config = model.config
    images = np.random.default_rng(5).uniform(-1, 1, (1, *config.image_size, 3)).astype(np.float32)
    runner = Interpreter(model_content=serialize(network_graph(model)), num_threads=1).get_signature_runner("predict")
    found, wanted = runner(images=images), outputs(other, images)
    arrays = [*wanted.class_logits.values(), *wanted.box_deltas.values()]
    assert len(found) == len(arrays)
    return max(error_over_rms(found[f"output_{number}"], array) for number, array in enumerate(arrays))


@pytest.mark.parametrize("config", CASES)
def test_outputs(config: EfficientDetConfig, tmp_path: Path) -> None:
    model = alive(EfficientDet(config)).float().eval()
    assert worst(model, model) < FLOAT
    changed = copy.deepcopy(model)  # negative control: one channel of one node
    changed.get_submodule("fpn.cell.0.fnode.1.after_combine.conv.bn").bias.data[0] += 1
    assert worst(changed, model) > FLOAT
    if config in NOT_READ:
        return
    path = tmp_path / "m.tflite"
    path.write_bytes(serialize(network_graph(model)))
    back = converted(path, tmp_path)
    assert worst(back, model) < FLOAT


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("lite1", "d0") else pytest.mark.slow) for name in VARIANTS]
)
def test_every_variant_has_the_official_operations(name: str) -> None:
    """The listing is another reading of the official structure; that of lite0 and d0 is compared in tests/parity."""
    config = get_config(name)
    model = EfficientDet(config).eval()
    profile = plain_profile(operation_profile(config))
    graph = build_graph(model, config, Interface("detections", image_size=config.image_size, profile=profile))
    listing = listing_of(config, detects=True)
    ours = Counter((op.kind, op.inputs[0].shape, op.outputs[0].shape) for op in graph.operations)
    shapes = [tensor.shape for tensor in listing.tensors]
    theirs = Counter((row.name, shapes[row.inputs[0]], shapes[row.outputs[0]]) for row in listing.operations)
    assert {key: number for key, number in ours.items() if "Detection" not in key[0]} == {
        key: number for key, number in theirs.items() if "Detection" not in key[0]
    }
    assert ours.total() == theirs.total()
    assert [tensor.shape for tensor in graph.outputs] == [(1, 100), (1, 100, 4), (1,), (1, 100)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation": "mish"}, "activation is 'mish'; a .tflite file is written for 'swish' or 'relu6'"),
        ({"padding": "symmetric"}, "padding is 'symmetric'"),
        ({"backbone_style": "pytorch"}, "backbone_style is 'pytorch'"),
        ({"resampling": "bilinear"}, "resampling is 'bilinear'"),
        ({"heads": ("object_detection", "segmentation")}, "no room for a segmentation head"),
    ],
)
def test_what_a_file_cannot_hold(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        require_possible_model(get_config("d0", image_size=512, **changes))
    require_possible_model(get_config("d0"))


def test_names_are_unique() -> None:
    graph = network_graph(EfficientDet(QUICK["d"]).eval())
    names = [tensor.name for tensor in graph.tensors()]
    assert len(names) == len(set(names))
