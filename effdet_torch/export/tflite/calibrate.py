"""The range of every tensor of a float graph, measured on images: what TensorFlow calls calibration."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from effdet_torch.engines.runtimes.litert import silent_libraries
from effdet_torch.errors import EffdetError
from effdet_torch.export.tflite.graph import Graph, Tensor
from effdet_torch.export.tflite.scales import RANGED, Range
from effdet_torch.export.tflite.serialize import serialize

SEED = 0
BLOBS = (4, 8, 16, 32, 64, 128)  # on either side of a picture


def calibrate(graph: Graph, images: Iterable[NDArray[np.float32]]) -> dict[Tensor, Range]:
    """Return the least and the largest value of every tensor that is quantised by its range, over all images.

    The interpreter keeps all tensors apart. TensorFlow's own calibration gives the first input of a sum the range of
    the sum, see `findings/tflite_calibration_sum.sh`.

    Args:
        graph: in float32, with one image as its input.
        images: (1, H, W, 3) each, as the graph takes them.

    Raises:
        EffdetError: There are no images, or a tensor is not finite.
    """
    found: dict[Tensor, Range] = {}
    for tensor, values in _values(graph, images):
        least, largest = found.get(tensor, (np.inf, -np.inf))
        found[tensor] = min(least, float(values.min())), max(largest, float(values.max()))
    if not found:
        raise EffdetError("there are no images to calibrate with; pass --calibrate PHOTOS")
    if wrong := [tensor.name for tensor, ends in found.items() if not np.isfinite(ends).all()]:
        raise EffdetError(f"{wrong[0]!r} is not finite for an image to calibrate with; look for NaN in the weights")
    return found


def largest_loss(graph: Graph, ranges: Mapping[Tensor, Range], image: NDArray[np.float32]) -> float:
    """Return what ranges cut off for an image (1, H, W, 3): its rms in the worst tensor, of the rms of that tensor."""
    losses = [0.0]
    for tensor, values in _values(graph, [image]):
        exact = values.astype(np.float64)
        lost = np.square(np.clip(exact, *ranges[tensor]) - exact).mean()
        losses.append(float(np.sqrt(lost / max(np.square(exact).mean(), np.finfo(np.float32).tiny))))
    return max(losses)


def seeded_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture (1, H, W, 3) with blobs of all sizes and the contrast of a photo."""
    generator = torch.Generator().manual_seed(SEED)
    layers = [torch.rand((1, 3, side, side), generator=generator) for side in BLOBS]
    picture = torch.stack([functional.interpolate(x, (height, width), mode="bilinear") for x in layers]).sum(0)
    picture = (picture - picture.min()) / (picture.max() - picture.min()) * 255
    return picture.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def _values(graph: Graph, images: Iterable[NDArray[np.float32]]) -> Iterator[tuple[Tensor, NDArray[np.float32]]]:
    """Yield the tensors that are quantised by their range, and their values, for one image after another."""
    interpreter, places = _interpreter(graph), {tensor: index for index, tensor in enumerate(graph.tensors())}
    (image,) = graph.inputs.values()
    written = [x for operation in graph.operations if operation.kind in RANGED for x in operation.outputs]
    for pixels in images:
        interpreter.set_tensor(places[image], pixels)
        interpreter.invoke()
        for tensor in written:
            yield tensor, interpreter.get_tensor(places[tensor])


def _interpreter(graph: Graph) -> Any:
    from ai_edge_litert import interpreter as litert  # late: an extra

    with warnings.catch_warnings(), silent_libraries():
        warnings.simplefilter("ignore")  # keeping all tensors takes memory
        made = litert.Interpreter(
            model_content=serialize(graph),
            num_threads=1,
            experimental_preserve_all_tensors=True,
            # A delegate computes several operations at once, and keeps nothing in between.
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        made.allocate_tensors()
    return made
