"""The range of every tensor of a float graph, measured on images: what TensorFlow calls calibration."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.engines.litert import silent_libraries
from effdet_torch.errors import EffdetError
from effdet_torch.export.tflite.graph import Graph, Tensor
from effdet_torch.export.tflite.scales import Range
from effdet_torch.export.tflite.serialize import serialize


def calibrate(graph: Graph, images: Iterable[NDArray[np.float32]]) -> dict[Tensor, Range]:
    """Return the least and the largest value of every float tensor that an operation writes, over all images.

    The interpreter keeps all tensors apart. TensorFlow's own calibration gives the first input of a sum the range of
    the sum, see `findings/tflite_calibration_sum.sh`.

    Args:
        graph: in float32, with one image as its input.
        images: (1, H, W, 3) each, as the graph takes them.

    Raises:
        EffdetError: There are no images, or a tensor is not finite.
    """
    interpreter, places = _interpreter(graph), {tensor: index for index, tensor in enumerate(graph.tensors())}
    (image,) = graph.inputs.values()
    written = [x for operation in graph.operations for x in operation.outputs if x.dtype == np.float32]
    found: dict[Tensor, Range] = {}
    for pixels in images:
        interpreter.set_tensor(places[image], pixels)
        interpreter.invoke()
        for tensor in written:
            values = interpreter.get_tensor(places[tensor])
            least, largest = found.get(tensor, (np.inf, -np.inf))
            found[tensor] = min(least, float(values.min())), max(largest, float(values.max()))
    if not found:
        raise EffdetError("there are no images to calibrate with; pass --calibrate PHOTOS")
    if wrong := [tensor.name for tensor, ends in found.items() if not np.isfinite(ends).all()]:
        raise EffdetError(f"{wrong[0]!r} is not finite for an image to calibrate with; look for NaN in the weights")
    return found


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
