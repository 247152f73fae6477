"""The fused network against the model: what is compared, what fails, and how much float32 may round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from converter.identify.families import DETECTOR
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize.fuse import FusedEfficientDet, fuse
from effdet_torch.optimize.layers import WidenedConv
from support.networks import alive
from support.sources import small_config
from verify.diagnosis.other_networks import explain_first
from verify.errors import ParityError
from verify.layers import fused
from verify.layers.fused import compare_fused
from verify.layers.tolerances import TOLERANCES, fused_tolerance
from verify.results.verification import DType, LayerResult

BLOCKS = [f"backbone.blocks.{stage}.{n}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for n in range(count)]
IMAGES = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
SETTINGS: dict[str, dict[str, Any]] = {
    "d0": {},
    "dense convolutions": {"separable_conv": False},
    "residual heads": {"survival_prob": 0.8, "head_repeats": 2},
    "activation last": {"conv_bn_act_pattern": True, "redundant_bias": True},
    "no batch norm in front of the pyramid": {"apply_bn_for_resampling": False, "max_level": 7},
}


def compared(
    dtypes: Sequence[DType] = ("float64", "float32"), others: Sequence[LayerResult] = (), **settings: Any
) -> list[LayerResult]:
    config = small_config(image_size=(64, 64), **settings)
    return compare_fused(alive(EfficientDet(config)), DETECTOR.plan(config), IMAGES, dtypes, others)


def places(results: Sequence[LayerResult]) -> set[tuple[str, int | None]]:
    return {(result.torch, result.level) for result in results}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_promised_output_is_compared_and_agrees(settings: dict[str, Any]) -> None:
    results = compared(**settings)
    config = small_config(**settings)
    levels = config.levels
    extra = [level for level in levels if level > 5]
    predict = "predict" if config.separable_conv else "predict.conv"
    repeats, heads = range(config.head_repeats), ("class_net", "box_net")
    added = repeats[1:] if config.survival_prob else ()
    wanted: set[tuple[str, int | None]] = {("backbone.bn1", None), *((block, None) for block in BLOCKS)}
    wanted |= {(f"fpn.resample.{level - levels[0]}", None) for level in extra}
    wanted |= {(f"fpn.cell.{c}.fnode.{n}", None) for c in range(config.fpn_cells) for n in range(len(config.cell))}
    wanted |= {(f"{h}.bn_rep.{r}.{k}", None) for h in heads for r in repeats for k in range(len(levels))}
    wanted |= {(f"{h}.add_rep.{r}", level) for h in heads for r in added for level in levels}
    wanted |= {(f"{head}.{predict}", level) for head in heads for level in levels}
    assert {(torch.removesuffix(".bn"), level) for torch, level in places(results)} == wanted
    assert len(results) == 2 * len(wanted)
    assert [result for result in results if not result.passed] == []


def break_weight(network: FusedEfficientDet) -> None:
    network.get_buffer("fpn.cell.0.fnode.1.combine.weight1").add_(1e-3)


def break_level(network: FusedEfficientDet) -> None:
    norms = network.class_net.bn_rep[0]
    norms[0], norms[1] = norms[1], norms[0]


def break_padding(network: FusedEfficientDet) -> None:
    conv = next(module for module in network.modules() if isinstance(module, WidenedConv))
    conv.weight.data.copy_(conv.weight.roll(-1, dims=3))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("plant", "first"),
    [
        (break_weight, "fpn.cell.0.fnode.1"),
        (break_level, "class_net.bn_rep.0.0"),
        (break_padding, "backbone.blocks.1.0"),
    ],
)
def test_a_wrong_fusion_is_named(
    plant: Callable[[FusedEfficientDet], None], first: str, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: EfficientDet) -> FusedEfficientDet:
        network = fuse(model)
        plant(network)
        return network

    monkeypatch.setattr(fused, "fuse", broken)
    results = compared([dtype])
    failed = [result for result in results if not result.passed]
    assert failed[0].torch.removesuffix(".bn") == first
    diagnosis, *others = explain_first(results)
    assert not others
    assert (diagnosis.mistake, diagnosis.tensor) == ("fused network", None)
    assert "conversion are not the cause" in diagnosis.explanation
    assert explain_first([replace(result, mode="cumulative") for result in results]) == []


def run_predict_again(network: FusedEfficientDet) -> None:
    def hook(head: nn.Module, inputs: Any, _: Any) -> None:
        head.get_submodule("predict")(inputs[0][0])

    network.class_net.register_forward_hook(hook)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda network: delattr(network.class_net, "predict"), "fused network has no module class_net.predict"),
        (run_predict_again, "fused network runs class_net.predict more often than the plan says"),
        (lambda network: setattr(network.fpn.cell, "0", nn.Identity()), "fused network has no module fpn.cell.0"),
    ],
)
def test_a_fused_network_of_other_layers_is_refused(
    change: Callable[[FusedEfficientDet], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(model: EfficientDet) -> FusedEfficientDet:
        network = fuse(model)
        change(network)
        return network

    monkeypatch.setattr(fused, "fuse", other)
    with pytest.raises(ParityError, match=words):
        compared(["float32"])


def test_layers_stand_where_tensorflow_has_them() -> None:
    alone = compared(["float32"])
    assert [result.order for result in alone] == list(range(len(alone)))
    others = [replace(result, mode="cumulative", order=1000 - result.order) for result in alone]
    assert [x.order for x in compared(["float32"], others)] == sorted(other.order for other in others)


@pytest.mark.parametrize(
    ("dtype", "own", "allowed"),
    [
        ("float64", 0.0, 1e-12),
        ("float32", 0.0, 2e-5),
        ("float32", 5e-6, 2e-5),
        ("float32", 3e-5, 12e-5),
        ("float32", 1.0, 5e-4),
        ("float32", math.inf, 5e-4),
        ("float32", math.nan, 2e-5),
    ],
)
def test_the_tolerance_follows_the_roundings_of_the_model_and_has_an_end(
    dtype: DType, own: float, allowed: float
) -> None:
    assert fused_tolerance(dtype, own) == allowed
    assert allowed <= TOLERANCES["cumulative", dtype][0]
