"""The error measures against plain NumPy, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from verify.layers.measures import measure


def test_measures_equal_numpy() -> None:
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(1, 4, 5, 6))
    found = expected + generator.normal(size=expected.shape) * 1e-3
    found[0, 2, 1, 3] += 0.5
    result = measure(found, expected)
    difference = np.abs(found - expected)
    assert result.worst == (0, 2, 1, 3)
    assert result.max_abs == pytest.approx(difference.max())
    assert result.max_over_rms == pytest.approx(difference.max() / np.sqrt(np.mean(expected**2)))
    assert result.mean_abs == pytest.approx(difference.mean())
    cosine = np.vdot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected)
    assert result.cosine == pytest.approx(cosine, abs=1e-12)
    assert (result.expected, result.found) == (expected[0, 2, 1, 3], found[0, 2, 1, 3])


def test_equal_arrays_have_no_error() -> None:
    array = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    result = measure(array, array.copy())
    assert (result.max_abs, result.max_over_rms, result.mean_abs, result.cosine) == (0, 0, 0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_infinite_error(value: float) -> None:
    expected = np.ones((1, 2, 2, 3), np.float32)
    found = expected.copy()
    found[0, 1, 0, 2] = value
    result = measure(found, expected)
    assert result.max_over_rms == math.inf
    assert result.worst == (0, 1, 0, 2)


def test_another_shape_is_an_infinite_error() -> None:
    assert measure(np.ones((1, 2, 2, 3)), np.ones((1, 2, 3, 2))).max_over_rms == math.inf


def test_zero_expected() -> None:
    zeros = np.zeros((1, 1, 1, 2), np.float32)
    assert measure(zeros, zeros).max_over_rms == 0
    assert measure(zeros + 1, zeros).max_over_rms == math.inf


def test_large_values_do_not_overflow() -> None:
    large = np.full((1, 1, 1, 3), 1e30, np.float32)
    result = measure(large * np.float32(1.5), large)
    assert result.max_over_rms == pytest.approx(0.5)
    assert result.cosine == pytest.approx(1)
