"""Which layers are compared: every row of the mapping table, as a pair of a TensorFlow scope and a PyTorch module.

A pair says whose inputs the PyTorch layer is fed with, and whose output it must give, where these are not simply the
scope's own: timm's batch norms include the activation, and a `combine` includes the resampling of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from converter.plan.expand import Layer, Plan
from verify.reference.base import LayerKey

Inputs = Sequence[Tensor]
Isolated = Callable[[nn.Module, Inputs, Sequence[int]], Tensor]  # (module, inputs, output's (height, width)) -> output


@dataclass(frozen=True)
class Pair:
    """A TensorFlow layer and its PyTorch counterpart.

    Attributes:
        layer: the mapping row at its place.
        level: pyramid level where the layer serves several, else None.
        call: how many calls of the module come before this one in a run.
        inputs_from: TensorFlow layer whose inputs feed the module.
        output_from: TensorFlow layer whose output is expected.
        module: PyTorch module whose output is compared.
        alone: PyTorch module that runs alone; the one whose output is compared, or what holds it.
        without_bias: where the redundant bias is folded, PyTorch's side has none: not in the layer's "output", not in
            the batch norm's "input"; or "" where both sides are alike.
    """

    layer: Layer
    level: int | None
    call: int
    inputs_from: LayerKey
    output_from: LayerKey
    module: str
    alone: str
    without_bias: str


def layer_pairs(plan: Plan) -> list[Pair]:
    """Return the pairs of a plan, in the order of its rows; fusion weights show in their node's `combine`.

    What a module must give follows from the plan, not from the module: one that lacks its activation must not pass.
    """
    activated = _activated(plan)
    layers = [layer for layer in plan.layers if layer.kind in ISOLATED]
    return [pair for layer in layers for pair in _pairs_of(layer, plan, layer.tf in activated)]


def _activated(plan: Plan) -> set[str]:
    """Return the batch norms that an activation follows: the backbone's and the heads', but not a block's last one."""
    norms = [layer for layer in plan.layers if layer.kind == "batch_norm" and not layer.torch.startswith("fpn.")]
    projections = {layer.indices["flat"]: layer.tf for layer in norms if "flat" in layer.indices}
    return {layer.tf for layer in norms} - set(projections.values())


def _pairs_of(layer: Layer, plan: Plan, activated: bool) -> list[Pair]:
    module = alone = layer.torch
    without_bias = ""
    inputs_scope = output_scope = layer.tf
    if activated:
        output_scope = f"{layer.tf}-act"
        if "head" in layer.indices:
            module = alone = layer.torch.removesuffix(".bn")  # the activation lies beside the batch norm, not in it
    if layer.kind == "combine":
        inputs_scope = layer.tf.rsplit("/", 1)[0]
    if layer.kind == "separable_before_bn":
        module = f"{layer.torch}.conv_pw"
    if not plan.config.redundant_bias:
        without_bias = {"conv_before_bn": "output", "separable_before_bn": "output"}.get(layer.kind, "")
        if layer.kind == "batch_norm" and layer.row.folds:
            without_bias = "input"
    shared = layer.kind.startswith("separable") and "head" in layer.indices
    levels: Sequence[int | None] = plan.config.levels if shared else [None]
    return [
        Pair(layer, level, call, (inputs_scope, level), (output_scope, level), module, alone, without_bias)
        for call, level in enumerate(levels)
    ]


def run_isolated(pair: Pair, model: nn.Module, inputs: Inputs, size: Sequence[int]) -> Tensor:
    """Run one PyTorch layer on given inputs.

    Args:
        pair: which layer.
        model: the whole model.
        inputs: (B, C, H, W) each.
        size: (height, width) of the expected output, which resampling has to be told.
    """
    return ISOLATED[pair.layer.kind](model.get_submodule(pair.alone), inputs, size)


def _plain(module: nn.Module, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module(inputs[0])
    return output


def _separable(module: Any, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module.conv_pw(module.conv_dw(inputs[0]))
    return output


def _resample(module: nn.Module, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module(inputs[0], *size)
    return output


def _combine(module: nn.Module, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module(list(inputs))
    return output


def _node(module: Any, inputs: Inputs, size: Sequence[int]) -> Tensor:
    # A node picks its inputs out of all features of the cell so far.
    features = [torch.empty(0)] * (max(module.offsets) + 1)
    for offset, feature in zip(module.offsets, inputs, strict=True):
        features[offset] = feature
    output: Tensor = module(features)
    return output


# Kind of mapping row -> how its PyTorch layer runs alone. The fusion weights are compared by what `combine` gives.
ISOLATED: Mapping[str, Isolated] = {
    "conv": _plain,
    "conv_bias": _plain,
    "conv_before_bn": _plain,
    "depthwise": _plain,
    "separable_before_bn": _separable,
    "separable_bias": _plain,
    "batch_norm": _plain,
    "squeeze_excite": _plain,
    "block": _plain,
    "resample": _resample,
    "combine": _combine,
    "node": _node,
}
# Kinds whose modules are made of other layers that are compared: they show what is wrong inside them, too.
COMPOSITES = ("block", "node", "squeeze_excite", "combine", "resample")
