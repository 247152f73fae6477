"""The error measures against plain NumPy, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from verify.layers.measures import measure


def test_measures_equal_numpy() -> None:
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(1, 6, 4, 5))
    found = expected + generator.normal(size=expected.shape) * 1e-3
    found[0, 3, 2, 1] += 0.5
    result = measure(torch.from_numpy(found), torch.from_numpy(expected))
    difference = np.abs(found - expected)
    assert result.worst == (0, 2, 1, 3)  # NHWC
    assert result.max_abs == pytest.approx(difference.max())
    assert result.max_over_rms == pytest.approx(difference.max() / np.sqrt(np.mean(expected**2)))
    assert result.mean_abs == pytest.approx(difference.mean())
    cosine = np.vdot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected)
    assert result.cosine == pytest.approx(cosine, abs=1e-12)
    assert (result.expected, result.found) == (expected[0, 3, 2, 1], found[0, 3, 2, 1])


def test_equal_tensors_have_no_error() -> None:
    tensor = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    result = measure(tensor, tensor.clone())
    assert (result.max_abs, result.max_over_rms, result.mean_abs, result.cosine) == (0, 0, 0, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["found", "expected"])
def test_a_value_that_is_not_finite_is_an_infinite_error(value: float, side: str) -> None:
    sides = {"found": torch.ones(1, 3, 2, 2), "expected": torch.ones(1, 3, 2, 2)}
    sides[side][0, 2, 1, 0] = value
    result = measure(**sides)
    assert result.max_over_rms == math.inf
    assert result.worst == (0, 1, 0, 2)
    assert str(getattr(result, side)) == str(value)


def test_another_shape_is_an_infinite_error() -> None:
    assert measure(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 3, 2)).max_over_rms == math.inf


def test_zeros_and_large_values() -> None:
    zeros = torch.zeros(1, 2, 1, 1)
    assert measure(zeros, zeros).max_over_rms == 0
    assert measure(zeros + 1, zeros).max_over_rms == math.inf
    large = torch.full((1, 3, 1, 1), 1e30)
    result = measure(large * 1.5, large)  # its square overflows in float32
    assert (result.max_over_rms, result.cosine) == (pytest.approx(0.5), pytest.approx(1))
