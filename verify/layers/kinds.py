"""How layers of every kind are compared: one table, and the kinds that need no entry because another kind shows them.

Nothing else in the proof looks at the name of a kind to decide what to compare. A kind that is in neither mapping
cannot be left out silently: `pairs.layer_pairs` refuses the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Inputs = Sequence[Tensor]
Runner = Callable[[Any, Inputs, Sequence[int]], Tensor]  # (module, inputs, output's (height, width)) -> output


@dataclass(frozen=True)
class Comparison:
    """How layers of one kind are compared.

    Attributes:
        run: computes the PyTorch layer alone, (B, C, H, W) in and out.
        output: the submodule whose output is compared while the whole network runs; "" for the module itself.
        bias: where TensorFlow has a redundant bias that a folded PyTorch layer lacks: in the layer's "output", in its
            "input", or "" nowhere.
        activated: whether an activation can follow, which the PyTorch layer then includes.
        per_level: whether a head has one such layer for all levels.
        resampled: whether PyTorch's layer resamples its inputs, so that it is fed what the whole node was given.
        composite: whether it is made of other layers that are compared too, and shows what is wrong inside them.
    """

    run: Runner
    output: str = ""
    bias: Literal["", "input", "output"] = ""
    activated: bool = False
    per_level: bool = False
    resampled: bool = False
    composite: bool = False


def _plain(module: Any, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module(inputs[0])
    return output


def _separable(module: Any, inputs: Inputs, size: Sequence[int]) -> Tensor:
    output: Tensor = module.conv_pw(module.conv_dw(inputs[0]))
    return output


COMPARED: Mapping[str, Comparison] = {
    "conv": Comparison(_plain),
    "conv_bias": Comparison(_plain, per_level=True),
    "conv_before_bn": Comparison(_plain, bias="output", per_level=True),
    "conv_transpose": Comparison(_plain),
    "conv_transpose_bias": Comparison(_plain),
    "depthwise": Comparison(_plain),
    "separable": Comparison(_separable, output="conv_pw"),
    "separable_before_bn": Comparison(_separable, output="conv_pw", bias="output", per_level=True),
    "separable_bias": Comparison(_plain, per_level=True),
    "arranged_separable": Comparison(_plain, per_level=True),
    "batch_norm": Comparison(_plain, bias="input", activated=True),
    "squeeze_excite": Comparison(_plain, composite=True),
    "block": Comparison(_plain, composite=True),
    "resample": Comparison(lambda module, inputs, size: module(inputs[0], *size), composite=True),
    "combine": Comparison(lambda module, inputs, size: module(inputs, *size), resampled=True, composite=True),
    # Alone, a node is given its inputs; in the network, it picks them out of all features of the cell so far.
    "node": Comparison(
        lambda module, inputs, size: module.after_combine(module.combine(inputs, *size)), composite=True
    ),
    "residual": Comparison(lambda module, inputs, _: module(*inputs), per_level=True, composite=True),
}
# Kind that is not compared itself -> the kind of the layer on the same PyTorch module whose output depends on it.
SHOWN_BY: Mapping[str, str] = {"fusion": "combine", "channel_fusion": "combine", "column_fusion": "combine"}
