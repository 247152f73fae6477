"""Compare only what the heads predict with a reference, so that a whole network in full size fits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

from effdet_torch.network.model import EfficientDet
from verify.layers.measures import measure
from verify.layers.parity import one_thread, to_nchw
from verify.layers.tolerances import tolerance
from verify.reference.base import HeadOutputs, Reference
from verify.results.verification import LayerResult


class Prediction(NamedTuple):
    """What a head predicts, on one level if it serves several: NHWC."""

    tf: str
    torch: str
    kind: str
    level: int | None
    output: NDArray[Any]


def compare_outputs(reference: Reference, model: EfficientDet, images: NDArray[Any]) -> tuple[LayerResult, ...]:
    """Run a reference and a model on the same images in float32, and compare the outputs of all heads.

    Args:
        reference: computes in float32, or what its `precision` says.
        model: is converted to float32 in place.
        images: (B, H, W, 3), normalised.
    """
    images = reference.representable(images)
    expected = _predictions(reference.outputs(images), len(model.config.levels))
    with torch.inference_mode(), one_thread():
        found = tree_leaves(model.float().eval()(to_nchw(images).float()))
    return tuple(
        LayerResult(
            order=order,
            tf=wanted.tf,
            torch=wanted.torch,
            kind=wanted.kind,
            level=wanted.level,
            mode="cumulative",
            dtype="float32",
            shape=wanted.output.shape,
            measures=measure(output, to_nchw(wanted.output)),
            tolerance=tolerance("cumulative", reference.precision, wanted.kind),
        )
        for order, (wanted, output) in enumerate(zip(expected, found, strict=True))
    )


def _predictions(outputs: HeadOutputs, levels: int) -> Iterator[Prediction]:
    """Yield what the heads predict, in the order in which a model returns it."""
    for head, maps in (("class", outputs.class_logits), ("box", outputs.box_deltas)):
        for level, output in maps.items():
            yield Prediction(f"{head}_net/{head}-predict", f"{head}_net.predict", "separable_bias", level, output)
    if outputs.mask_logits is not None:
        last = f"segmentation_head/conv2d_transpose_{levels - 1}"
        yield Prediction(last, "seg_head.predict", "conv_transpose_bias", None, outputs.mask_logits)
