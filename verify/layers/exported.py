"""Compare an exported file with the model or with TensorFlow, whichever is its reference; both in whole, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from numpy.typing import NDArray

from converter.plan.expand import Plan
from effdet_torch.network.model import EfficientDet, inner_name
from verify.layers.fused import kept_layers, record_kept
from verify.layers.pairs import Pair
from verify.layers.parity import Match, match_layers
from verify.layers.tolerances import tolerance
from verify.reference.base import Reference
from verify.results.verification import LayerResult, Precision

Found = Mapping[str, NDArray[Any]]  # {name of an output, see `inner_name`: (1, C, H, W)}


def shown_layers(plan: Plan) -> dict[str, Pair]:
    """Return {name of an output that an exported file can show: which layer}."""
    return {inner_name(*place): pair for place, pair in kept_layers(plan).items()}


def expected_of_model(model: EfficientDet, plan: Plan, images: NDArray[Any]) -> Iterator[Match]:
    """Yield what a model computes for images (1, H, W, 3), in float64; the model stays as it is."""
    places = kept_layers(plan)
    with torch.inference_mode():
        recorded = record_kept(deepcopy(model).double().eval(), places, images, "float64")
    for order, (place, output) in enumerate(recorded.items()):
        yield Match(places[place], order, (), output, None)


def expected_of_tensorflow(reference: Reference, plan: Plan, images: NDArray[Any]) -> Iterator[Match]:
    """Yield what TensorFlow computes for images (1, H, W, 3), in its dtype."""
    return match_layers(reference.taps(images), list(kept_layers(plan).values()))


def compare_exported(
    expected: Iterable[Match], found: Found, precision: Precision
) -> Iterator[tuple[str, Match, LayerResult | None]]:
    """Compare the outputs that a file shows.

    Args:
        expected: of every layer, in execution order.
        found: what the file gives for the same image.
        precision: of the file.

    Yields:
        The name of every output, what is expected, and the result; None where the file does not show it.
    """
    for match in expected:
        pair, result = match.pair, None
        name = inner_name(pair.module.removesuffix(".conv"), pair.call)
        if name in found:
            measures = match.measure(torch.from_numpy(found[name]).double())
            allowed = tolerance("exported", precision, pair.layer.kind)
            result = pair.result("exported", precision, match.order, match.expected.shape, measures, allowed)
        yield name, match, result
