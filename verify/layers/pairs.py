"""Which layers are compared: every row of the mapping table, as a pair of a TensorFlow scope and a PyTorch module.

A pair says whose inputs the PyTorch layer is fed, and whose output it must give, where these are not simply the scope's
own: the backbone's batch norms include the activation, and a `combine` includes the resampling of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from converter.plan.expand import Layer, Plan
from verify.errors import ParityError
from verify.layers.kinds import COMPARED, SHOWN_BY, Comparison
from verify.reference.base import LayerKey
from verify.results.verification import LayerResult, Measures, Mode, Precision, layer_name


@dataclass(frozen=True)
class Pair:
    """A TensorFlow layer and its PyTorch counterpart.

    Attributes:
        layer: the mapping row at its place.
        level: pyramid level where the layer serves several, else None.
        call: how often the module has been called before in the same run.
        inputs_from: TensorFlow layer whose inputs feed the module.
        output_from: TensorFlow layer whose output is expected.
        module: PyTorch module whose output is compared.
        alone: PyTorch module that runs alone: the same one, or the one that holds it.
        without_bias: where PyTorch lacks the redundant bias because it is folded: in the layer's "output", in the batch
            norm's "input", or "" where both sides are alike.
    """

    layer: Layer
    level: int | None
    call: int
    inputs_from: LayerKey
    output_from: LayerKey
    module: str
    alone: str
    without_bias: str

    @property
    def name(self) -> str:
        """The same as `LayerResult.name`."""
        return layer_name(self.layer.tf, self.level)

    @property
    def comparison(self) -> Comparison:
        """How the layer is compared."""
        return COMPARED[self.layer.kind]

    @property
    def activated(self) -> bool:
        """Whether an activation belongs to the layer."""
        return self.output_from[0] != self.layer.tf

    def result(
        self, mode: Mode, dtype: Precision, order: int, shape: Sequence[int], measures: Measures, tolerance: float
    ) -> LayerResult:
        """Return a comparison of the layer; `shape` is (B, C, H, W)."""
        batch, channels, height, width = shape
        return LayerResult(
            order=order,
            tf=self.layer.tf,
            torch=self.module,
            kind=self.layer.kind,
            level=self.level,
            mode=mode,
            dtype=dtype,
            shape=(batch, height, width, channels),
            measures=measures,
            tolerance=tolerance,
        )


def layer_pairs(plan: Plan) -> list[Pair]:
    """Return the pairs of a plan, in the order of its rows.

    What a module must give follows from the plan, not from the module: one that lacks its activation must not pass.

    Raises:
        ParityError: Nothing compares the layers of a row, and no other layer shows them.
    """
    for layer in plan.layers:
        if layer.kind not in COMPARED:
            _shown_by(layer, plan)
    activated = _activated(plan)
    compared = [layer for layer in plan.layers if layer.kind in COMPARED]
    return [pair for layer in compared for pair in _pairs_of(layer, plan, layer.tf in activated)]


def _shown_by(layer: Layer, plan: Plan) -> Layer:
    """Return the compared layer whose output depends on the variables of one that is not compared itself."""
    wanted = SHOWN_BY.get(layer.kind, ""), layer.torch
    for other in plan.layers:
        if (other.kind, other.torch) == wanted and other.kind in COMPARED:
            return other
    variables = sum(len(entry.sources) for entry in plan.entries if entry.layer.kind == layer.kind)
    raise ParityError(
        f"{layer.row.where}: no comparison covers the kind {layer.kind!r} (first layer {layer.tf}; {variables} "
        "variables), so the proof would be incomplete; add the kind to COMPARED or SHOWN_BY in verify/layers/kinds.py"
    )


def _activated(plan: Plan) -> set[str]:
    """Return the batch norms that an activation follows: the backbone's and the heads', but not a block's last one."""
    norms = [layer for layer in plan.layers if layer.kind in COMPARED and COMPARED[layer.kind].activated]
    norms = [layer for layer in norms if not layer.torch.startswith("fpn.")]
    projections = {layer.indices["flat"]: layer.tf for layer in norms if "flat" in layer.indices}
    return {layer.tf for layer in norms} - set(projections.values())


def _pairs_of(layer: Layer, plan: Plan, activated: bool) -> Iterator[Pair]:
    how, alone = COMPARED[layer.kind], layer.torch
    inputs_scope = layer.tf.rsplit("/", 1)[0] if how.resampled else layer.tf
    output_scope = f"{layer.tf}-act" if activated else layer.tf
    if activated and "head" in layer.indices:
        alone = layer.torch.removesuffix(".bn")  # a head's activation lies beside the batch norm, not in it
    folded = not plan.config.redundant_bias and (how.bias == "output" or bool(layer.row.folds))
    for call, level in enumerate(_levels(layer, plan)):
        yield Pair(
            layer=layer,
            level=level,
            call=call,
            inputs_from=(inputs_scope, level),
            output_from=(output_scope, level),
            module=f"{alone}.{how.output}" if how.output else alone,
            alone=alone,
            without_bias=how.bias if folded else "",
        )


def _levels(layer: Layer, plan: Plan) -> Sequence[int | None]:
    shared = COMPARED[layer.kind].per_level and "head" in layer.indices
    return plan.config.levels if shared else [None]


def uncompared(plan: Plan, results: Iterable[LayerResult]) -> list[str]:
    """Return the names of all layers of a plan, on every level that they serve, that no result covers."""
    seen = {(result.kind, result.tf, result.level) for result in results}
    left_out = []
    for layer in plan.layers:
        shown = layer if layer.kind in COMPARED else _shown_by(layer, plan)
        left_out += [
            layer_name(layer.tf, level) for level in _levels(shown, plan) if (shown.kind, shown.tf, level) not in seen
        ]
    return left_out
