"""Compare only what the two heads predict with a reference, so that a whole network in full size fits in memory."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from effdet_torch.network.model import EfficientDet
from verify.layers.measures import measure
from verify.layers.parity import one_thread, to_nchw
from verify.layers.tolerances import tolerance
from verify.reference.base import Reference
from verify.results.verification import LayerResult

KIND = "separable_bias"  # of a prediction


def compare_outputs(reference: Reference, model: EfficientDet, images: NDArray[Any]) -> tuple[LayerResult, ...]:
    """Run a reference and a model on the same images in float32, and compare class and box outputs of all levels.

    Args:
        reference: computes in float32, or what its `precision` says.
        model: is converted to float32 in place.
        images: (B, H, W, 3), normalised.
    """
    images = reference.representable(images)
    expected = reference.outputs(images)
    with torch.inference_mode(), one_thread():
        found = model.float().eval()(to_nchw(images).float())
    results: list[LayerResult] = []
    for head, outputs, wanted in zip(
        ("class", "box"), found, (expected.class_logits, expected.box_deltas), strict=True
    ):
        for (level, array), output in zip(wanted.items(), outputs, strict=True):
            results.append(
                LayerResult(
                    order=len(results),
                    tf=f"{head}_net/{head}-predict",
                    torch=f"{head}_net.predict",
                    kind=KIND,
                    level=level,
                    mode="cumulative",
                    dtype="float32",
                    shape=array.shape,
                    measures=measure(output, to_nchw(array)),
                    tolerance=tolerance("cumulative", reference.precision, KIND),
                )
            )
    return tuple(results)
