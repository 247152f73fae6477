"""Fusion weights from the constants of a graph: exactly the network of the file, not necessarily the trained numbers.

Officially an input is multiplied by w_i / (sum of all w + 0.0001), where w = relu(WSM). A graph holds the w and the
factor r = 1 / (sum + 0.0001). Where an input is a convolution, both can be folded into its kernel; its w is then what
the sum has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.walk.fusion import Input, Scale

EPSILON = 1e-4  # of the official fusion
LARGEST_SUM = 1e3  # of weights whose sum does not show
# Type of the constants -> by how much they may miss the official rule: one rounding of it, and some of ours.
TOLERANCES = {"float32": 1e-5, "float16": 4e-3}
OF_CODES = 2e-2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Of one node.

    Attributes:
        values: one float32 array for every input.
        folded: {position: the factor in the kernel and the bias of its convolution}.
    """

    values: tuple[NDArray[np.float32], ...]
    folded: dict[int, Floats]


@np.errstate(all="ignore")  # damaged values are found when they are written
def find_weights(
    inputs: Sequence[Input], read: Callable[[int], NDArray[Any]], dtype: Callable[[int], str], where: str
) -> Weights:
    """Return the weights of a node, and what is folded into its convolutions.

    Args:
        inputs: of the node.
        read: constant -> its real values.
        dtype: constant -> its type.
        where: the node, in words.

    Raises:
        UnsupportedSourceError: The constants are not those of weights that are divided by their sum.
    """
    scales = [[_value(scale, read) for scale in item.scales] for item in inputs]
    if any(len(values) > 2 for values in scales):
        raise UnsupportedSourceError(f"{where}: an input with more than two factors; expected a weight and a sum")
    if any(not item.scales and item.conv is None for item in inputs):
        raise UnsupportedSourceError(f"{where}: an input without a weight, which no convolution before it can hold")
    constants = [scale.constant for item in inputs for scale in item.scales]
    tolerance = max((TOLERANCES.get(dtype(index), OF_CODES) for index in constants), default=0.0)
    per_channel = any(np.ndim(value) for values in scales for value in values)
    is_live = [_is_live(item, read, per_channel) for item in inputs]
    _require_one_size([*(value for values in scales for value in values), *is_live], where)
    split = [values for values in scales if len(values) == 2]
    factor = split[0][0] if split else None
    if factor is not None and any(not np.allclose(values[0], factor, rtol=tolerance) for values in split):
        raise UnsupportedSourceError(f"{where}: inputs are divided by different sums")
    weights, total = _weights(scales, is_live, factor, tolerance / 4)
    if any(not np.isfinite(weight).all() or (weight < 0).any() for weight in weights):
        raise UnsupportedSourceError(f"{where}: a negative weight, or none that is a number")
    for values, weight in zip(scales, weights, strict=True):
        if values and np.abs(np.prod(values, axis=0) - weight / (total + EPSILON)).max() > tolerance:
            raise UnsupportedSourceError(f"{where}: its factors are not weights that are divided by their sum")
    stored = tuple(weight.astype(np.float32) for weight in weights)
    real = [weight.astype(np.float64) for weight in stored]
    factors = [weight / (sum(real) + EPSILON) for weight in real]
    folded = {at: factors[at] for at, live in enumerate(is_live) if live.any() and not scales[at]}
    return Weights(stored, folded)


def _require_one_size(values: Sequence[NDArray[Any]], where: str) -> None:
    sizes = {value.size for value in values if value.ndim}
    if len(sizes) > 1:
        raise UnsupportedSourceError(f"{where}: factors for {' and '.join(map(str, sorted(sizes)))} channels")


def _weights(
    scales: Sequence[Sequence[Floats]], is_live: Sequence[NDArray[np.bool_]], factor: Floats | None, least: float
) -> tuple[list[Floats], Any]:
    """Return weights and their sum.

    Args:
        scales: the factors of every input, the last one in the graph first; none where they are folded.
        is_live: whether an input has a convolution that is not zero, for every channel where weights are per channel.
        factor: 1 / (sum + epsilon); None if no input shows it apart from its weight.
        least: share of the sum that a weight has whose kernel is not zero.
    """
    hidden = [live & (not values) for values, live in zip(scales, is_live, strict=True)]
    shares = [np.prod(values, axis=0) if values else np.float64(0) for values in scales]
    seen = sum(shares)
    if factor is not None:
        total = 1 / factor - EPSILON
    else:  # where a weight is hidden, no number of the graph depends on the sum
        shown = EPSILON * seen / np.maximum(1 - seen, EPSILON / LARGEST_SUM)
        total = np.where(sum(hidden) > 0, 1.0, shown)
    weights = [
        np.asarray(values[-1] if len(values) == 2 else share * (total + EPSILON))
        for values, share in zip(scales, shares, strict=True)
    ]
    rest = total - sum(weights)
    # Rounded constants may leave nothing for the last weight: then it is small, and the kernel is divided by less.
    rest = np.maximum(rest, least * total) / np.maximum(sum(hidden), 1)
    weights = [np.where(hides, rest, weight) for weight, hides in zip(weights, hidden, strict=True)]
    return weights, sum(weights)


def _is_live(item: Input, read: Callable[[int], NDArray[Any]], per_channel: bool) -> NDArray[np.bool_]:
    """Return whether an input has a convolution that is not zero: (), or (C,) for its channels."""
    if item.conv is None:
        return np.asarray(False)
    kernel = read(item.conv.inputs[1])
    return np.asarray((kernel != 0).any(axis=(1, 2, 3)) if per_channel else (kernel != 0).any())


def _value(scale: Scale, read: Callable[[int], NDArray[Any]]) -> Floats:
    value = read(scale.constant).astype(np.float64).reshape(-1)
    value = value[0] if value.size == 1 else value
    with np.errstate(divide="ignore"):
        return np.asarray(1 / value if scale.divides else value)
