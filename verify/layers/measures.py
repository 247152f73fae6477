"""How far two layers' outputs are apart."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from verify.results.verification import Measures


def measure(found: Tensor, expected: Tensor) -> Measures:
    """Compare two tensors (B, C, H, W) of one dtype.

    A different shape, or a value that is not finite, is an infinite error.
    """
    if found.shape != expected.shape or not expected.numel():
        return Measures(math.inf, math.inf, math.inf, 0.0, (), math.nan, math.nan)
    difference = (found - expected).flatten()
    distance = _norm(difference)
    if not math.isfinite(distance):
        worst = int(torch.isfinite(difference).to(torch.uint8).argmin())
        return _at(worst, found, expected, math.inf, math.inf, math.inf, 0.0)
    worst = int(difference.abs_().numpy().argmax())  # NumPy's is vectorised
    norms = _norm(found), _norm(expected)
    max_abs, rms = float(difference[worst]), norms[1] / math.sqrt(expected.numel())
    max_over_rms = max_abs / rms if rms else (math.inf if max_abs else 0.0)
    return _at(worst, found, expected, max_abs, max_over_rms, float(difference.mean()), _cosine(*norms, distance))


def _at(worst: int, found: Tensor, expected: Tensor, *measures: float) -> Measures:
    """Add the values at a position, and the position as NHWC."""
    batch, channel, row, column = position = tuple(map(int, np.unravel_index(worst, expected.shape)))
    values = float(expected[position]), float(found[position])
    max_abs, max_over_rms, mean_abs, cosine = measures
    return Measures(max_abs, max_over_rms, mean_abs, cosine, (batch, row, column, channel), *values)


def _norm(tensor: Tensor) -> float:
    values = tensor.flatten()
    square = float(torch.dot(values, values))
    if math.isinf(square):  # float32 overflows from 1e19 on
        square = float(torch.dot(values.double(), values.double()))
    return math.sqrt(square)


def _cosine(one: float, other: float, distance: float) -> float:
    """Return the cosine between two vectors by the law of cosines; two zero vectors count as equal."""
    if not one or not other:
        return 1.0 if one == other else 0.0
    return 1.0 - (distance * distance - (one - other) ** 2) / (2 * one * other)
