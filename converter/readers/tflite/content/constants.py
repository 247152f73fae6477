"""The values of constants, as the numbers that they stand for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.readers.tflite.content.schema import Tensor

QUANTIZED = ("int8", "uint8", "int16", "int32", "int64")


def stored_values(tensor: Tensor) -> NDArray[Any]:
    """Return a constant as it lies in the file: codes, if it is quantised. A view.

    Raises:
        CorruptFileError: Its bytes do not fit its shape.
        UnsupportedSourceError: Its type cannot be read.
    """
    if not tensor.notation or tensor.is_sparse:
        how = "with its zeros left out" if tensor.is_sparse else f"as {tensor.dtype}"
        raise UnsupportedSourceError(
            f"the constant {tensor.name[:200]!r} is stored {how}; expected float32, float16 or whole numbers. Convert "
            "the network to TensorFlow Lite again without this compression"
        )
    expected = math.prod(tensor.shape) * np.dtype(tensor.notation).itemsize
    if min(tensor.shape, default=0) < 0 or len(tensor.data) != expected:
        raise CorruptFileError(
            f"the constant {tensor.name[:200]!r} of shape {tensor.shape} has {len(tensor.data)} bytes; expected "
            f"{expected}. Download or copy it again"
        )
    return np.frombuffer(tensor.data, tensor.notation).reshape(tensor.shape)


def real_values(tensor: Tensor) -> NDArray[np.float32]:
    """Return a constant as the float32 numbers that it stands for.

    Raises:
        CorruptFileError: Its bytes do not fit its shape, or its quantisation does not.
        UnsupportedSourceError: Its type cannot be read.
    """
    stored = stored_values(tensor)
    if stored.dtype.kind == "f" and not len(tensor.scales):
        return stored.astype(np.float32, copy=False)
    if not len(tensor.scales) or (tensor.scales < 0).any():
        raise CorruptFileError(
            f"the constant {tensor.name[:200]!r} holds {tensor.dtype} codes, and no scale, or a negative one; expected "
            "what a code stands for. Download or copy it again"
        )
    zeros = tensor.zero_points if len(tensor.zero_points) else np.zeros_like(tensor.scales, np.int64)
    sizes = [len(tensor.scales), len(zeros)]
    channels = tensor.shape[tensor.axis] if 0 <= tensor.axis < len(tensor.shape) else 1
    if sizes[0] not in (1, channels) or sizes[1] not in (1, sizes[0]) or tensor.dtype not in QUANTIZED:
        raise CorruptFileError(
            f"the constant {tensor.name[:200]!r} of shape {tensor.shape} has {sizes[0]} scales and {sizes[1]} zero "
            f"points; expected one, or one for each of {channels} channels. Download or copy it again"
        )
    # Codes of 32 bits would lose digits in float32; one product in float64, rounded once, is what the codes stand for.
    real = (stored - _spread(zeros, tensor)) * _spread(tensor.scales.astype(np.float64), tensor)
    return np.asarray(real, np.float32)


def _spread(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """Return values, one or one per channel, so that they meet the channels of a tensor."""
    if len(values) == 1:
        return values.reshape(())
    return values.reshape([-1 if axis == tensor.axis else 1 for axis in range(len(tensor.shape))])
