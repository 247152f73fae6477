"""How far two arrays are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.results import Measures


def measure(found: NDArray[Any], expected: NDArray[Any]) -> Measures:
    """Compare two arrays of one dtype; another shape, or a value that is not finite, is an infinite error.

    PyTorch goes through the arrays, because its reductions use all cores.
    """
    if found.shape != expected.shape or not expected.size:
        return Measures(math.inf, math.inf, math.inf, 0.0, (), math.nan, math.nan)
    flat_found, flat_expected = (torch.from_numpy(np.ascontiguousarray(array)).flatten() for array in (found, expected))
    difference = flat_found - flat_expected
    distance = _norm(difference)
    if not math.isfinite(distance):
        return _infinite(found, expected)
    largest, position = difference.abs_().max(dim=0)
    worst = np.unravel_index(int(position), expected.shape)
    norms = _norm(flat_found), _norm(flat_expected)
    max_abs, rms = float(largest), norms[1] / math.sqrt(expected.size)
    return Measures(
        max_abs=max_abs,
        max_over_rms=max_abs / rms if rms else (math.inf if max_abs else 0.0),
        mean_abs=float(difference.mean()),
        cosine=_cosine(*norms, distance),
        worst=tuple(map(int, worst)),
        expected=float(expected[worst]),
        found=float(found[worst]),
    )


def _norm(values: Tensor) -> float:
    square = float(torch.dot(values, values))
    if math.isinf(square):  # float32 overflows from 1e19 on
        square = float(torch.dot(values.double(), values.double()))
    return math.sqrt(square)


def _cosine(one: float, other: float, distance: float) -> float:
    """Return the cosine between two vectors by the law of cosines; two zero vectors count as equal."""
    if not one or not other:
        return 1.0 if one == other else 0.0
    return 1.0 - (distance * distance - (one - other) ** 2) / (2 * one * other)


def _infinite(found: NDArray[Any], expected: NDArray[Any]) -> Measures:
    """Return infinite errors, at the first value that is not finite."""
    worst = np.unravel_index(int(np.argmin(np.isfinite(found - expected))), expected.shape)
    position = tuple(map(int, worst))
    return Measures(math.inf, math.inf, math.inf, 0.0, position, float(expected[worst]), float(found[worst]))
