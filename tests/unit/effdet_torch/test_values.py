"""Values that no network can use are named; all others pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effdet_torch.values import KERNELS, ValueCheck, described

KERNEL, NORM = np.ones((1, 1, 2, 3), np.float32), np.ones(4, np.float32)


def found(*tensors: tuple[str, Any, bool]) -> dict[str, str]:
    check = ValueCheck()
    for name, array, is_variance in tensors:
        check.look(name, np.asarray(array), is_variance)
    return check.found()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_usable_values(dtype: str) -> None:
    largest = np.full(4, np.finfo(dtype).max, dtype)  # their sum is infinite, they are not
    zeros = np.zeros((1, 1, 2, 3), dtype)  # one dead kernel is no dead network
    assert found(("a", largest, False), ("b", zeros, False), ("k", KERNEL, False), ("v", np.zeros(4), True)) == {}
    assert found(("no kernel", np.zeros(4), False), ("counter", np.int64(0), False), ("none", np.zeros(0), True)) == {}
    assert found(("mean", -NORM, False)) == {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite(value: float, dtype: str) -> None:
    array = np.ones(4, dtype)
    array[2] = value
    assert found(("k", KERNEL, False), ("x", array, True)) == {"x": "1 of 4 values are not finite"}


def test_negative_variances() -> None:
    assert found(("v", [1.0, -1e-9, -2], True)) == {"v": "2 of 3 variances are negative"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_kernels_of_zeros(order: tuple[int, ...]) -> None:
    zeros = ("a", KERNEL * 0, False), ("b", KERNEL * 0, False)
    assert found(*(zeros[place] for place in order), ("gamma", NORM, False)) == {
        KERNELS: "all 2 hold nothing but zeros"
    }
    mixed = (("a", KERNEL, False), zeros[1])
    assert found(*(mixed[place] for place in order)) == {}


def test_the_first_names_are_shown() -> None:
    text = described({f"x{number}": "bad" for number in range(5)})
    assert text == "values that no network can use (5 found: x0: bad; x1: bad; x2: bad; and 2 more)"
