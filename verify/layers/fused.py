"""Compare the fused network, which a `Predictor` runs, with the model that it is made from.

Both sides are PyTorch with the weights of the file: a difference is a mistake of `effdet_torch.optimize`, and says
nothing about the conversion. Only the outputs that `effdet_torch.network.model` lists are compared: elsewhere batch
norms and fusion weights have gone into the convolutions around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from numpy.typing import NDArray

from converter.plan.expand import Plan
from effdet_torch.engines.torch_engine import memory_format
from effdet_torch.network.model import INNER_OUTPUTS, EfficientDet
from effdet_torch.optimize.fuse import FusedEfficientDet, fuse
from verify.errors import ParityError
from verify.layers.measures import measure
from verify.layers.pairs import Pair, layer_pairs
from verify.layers.parity import Calls, one_thread, record_outputs
from verify.layers.tolerances import fused_tolerance
from verify.results.verification import DType, LayerResult

Places = Mapping[tuple[str, int], Pair]  # (module, number of its call): which layer


def kept_layers(plan: Plan) -> Places:
    """Return the layers of a plan whose outputs the fused network has, too, by module and number of its call."""
    # A dense prediction is `predict.conv` in the model, without anything behind it, and `predict` in both networks.
    named = ((pair.module.removesuffix(".conv"), pair) for pair in layer_pairs(plan))
    return {(name, pair.call): pair for name, pair in named if INNER_OUTPUTS.fullmatch(name)}


def compare_fused(
    model: EfficientDet,
    plan: Plan,
    images: NDArray[Any],
    dtypes: Iterable[DType],
    compared: Sequence[LayerResult] = (),
) -> list[LayerResult]:
    """Compare the outputs of the fused network with those of the model in float64.

    Args:
        model: is converted to float32 in place.
        plan: of the model.
        images: (B, H, W, 3), normalised.
        dtypes: that the fused network computes in.
        compared: results of the same layers, which say where each stands in execution order; none: the model's order.

    Raises:
        ParityError: The two networks do not run the same layers.
    """
    places = kept_layers(plan)
    exact, rounded = deepcopy(model).double().eval(), model.float().eval()
    orders = {(result.kind, result.name): result.order for result in compared}
    results: list[LayerResult] = []
    with torch.inference_mode(), one_thread():
        expected = record_kept(exact, places, images, "float64")
        for dtype in dtypes:
            eager = exact if dtype == "float64" else rounded
            own = 0.0 if dtype == "float64" else max(_errors(record_kept(eager, places, images, dtype), expected))
            layout = memory_format(torch.device("cpu"), getattr(torch, dtype))  # that of a `Predictor`
            network = fuse(eager).to(memory_format=layout)
            found = record_kept(network, places, images, dtype)
            for number, (place, wanted) in enumerate(expected.items()):
                pair, measures = places[place], measure(found[place].double(), wanted)
                order = orders.get((pair.layer.kind, pair.name), number)
                results.append(pair.result("fused", dtype, order, wanted.shape, measures, fused_tolerance(dtype, own)))
    return sorted(results, key=lambda result: result.order)


def record_kept(network: EfficientDet | FusedEfficientDet, places: Places, images: NDArray[Any], dtype: DType) -> Calls:
    """Return the outputs (B, C, H, W) of the layers at these places, and of nothing else."""
    what = "fused network" if isinstance(network, FusedEfficientDet) else "model"
    names = {name for name, _ in places}
    if missing := sorted(names - dict(network.named_modules()).keys()):
        raise ParityError(f"the {what} has no module {missing[0]}, so its output cannot be compared")
    recorded = record_outputs(network, names, images, dtype)
    if different := sorted(recorded.keys() ^ places.keys()):
        often = "more often" if different[0] in recorded else "less often"
        raise ParityError(
            f"the {what} runs {different[0][0]} {often} than the plan says, so the proof would be incomplete"
        )
    return recorded


def _errors(found: Calls, expected: Calls) -> Iterator[float]:
    return (measure(found[place].double(), wanted).max_over_rms for place, wanted in expected.items())
