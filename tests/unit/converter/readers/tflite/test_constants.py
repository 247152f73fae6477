"""Constants of a file: the numbers that their bytes stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from converter.errors import CorruptFileError
from converter.readers.tflite.content.constants import real_values
from converter.readers.tflite.content.schema import Tensor

STORED = np.array([[1, -2], [3, 4]])


def constant(dtype: str, scales: Sequence[float], axis: int = 0) -> Tensor:
    data = memoryview(STORED.astype(dtype).tobytes())
    notation = np.dtype(dtype).str
    scale, zeros = np.array(scales, np.float32), np.zeros(0, np.int64)
    return Tensor(0, "kernel", STORED.shape, dtype, notation, data, scale, zeros, axis, is_sparse=False)


def test_values() -> None:
    assert real_values(constant("float16", [])).tolist() == STORED.tolist()
    assert real_values(constant("int8", [0.5])).tolist() == [[0.5, -1], [1.5, 2]]
    assert real_values(constant("int8", [0.5, 2], axis=1)).tolist() == [[0.5, -4], [1.5, 8]]
    assert real_values(constant("int8", [0.5, 0])).tolist() == [[0.5, -1], [0, 0]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("scales", [[], [-0.5], [0.5, -0.5]])
def test_codes_without_a_scale_are_refused(dtype: str, scales: list[float]) -> None:
    with pytest.raises(CorruptFileError, match=rf"the constant 'kernel' holds {dtype} codes, and no scale"):
        real_values(constant(dtype, scales))
