"""How far two arrays are apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.results import Measures


def measure(found: NDArray[Any], expected: NDArray[Any]) -> Measures:
    """Compare two arrays of one shape; another shape, or a value that is not finite, is an infinite error."""
    if found.shape != expected.shape or not expected.size:
        return Measures(math.inf, math.inf, math.inf, 0.0, (), math.nan, math.nan)
    difference = np.abs(np.subtract(found, expected, dtype=np.float64))
    finite = np.isfinite(difference)
    if not finite.all():
        worst = np.unravel_index(int(np.argmin(finite)), expected.shape)
        return Measures(
            math.inf, math.inf, math.inf, 0.0, tuple(map(int, worst)), float(expected[worst]), float(found[worst])
        )
    worst = np.unravel_index(int(np.argmax(difference)), expected.shape)
    max_abs, rms = float(difference[worst]), _rms(expected)
    return Measures(
        max_abs=max_abs,
        max_over_rms=max_abs / rms if rms else (math.inf if max_abs else 0.0),
        mean_abs=float(difference.mean()),
        cosine=_cosine(found, expected),
        worst=tuple(map(int, worst)),
        expected=float(expected[worst]),
        found=float(found[worst]),
    )


def _rms(array: NDArray[Any]) -> float:
    return math.sqrt(float(np.mean(np.square(array, dtype=np.float64))))


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the cosine of the angle between two arrays; two zero vectors count as equal."""
    flat_one, flat_other = one.reshape(-1).astype(np.float64), other.reshape(-1).astype(np.float64)
    norms = float(np.linalg.norm(flat_one) * np.linalg.norm(flat_other))
    if not norms:
        return 1.0 if not flat_one.any() and not flat_other.any() else 0.0
    return float(np.dot(flat_one, flat_other)) / norms
