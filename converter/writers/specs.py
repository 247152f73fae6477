"""What a writer must know about a tensor before it arrives.

All writers take the dtype and shape of every tensor first, and then the tensors as (name, array) in any order; each is
written when it arrives. Metadata are plain values: None, booleans, numbers, strings, lists and dicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.plan.ops import Array, Shape


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and shape of a tensor."""

    dtype: np.dtype[Any]
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def raw_bytes(array: Array, spec: TensorSpec) -> memoryview:
    """Return an array's bytes in the order of a file: row-major, little-endian; copied only if necessary.

    Raises:
        ValueError: The array differs from its spec: a defect that must not reach a file.
    """
    if array.shape != spec.shape or array.dtype != spec.dtype:
        raise ValueError(f"the tensor is {array.dtype} {array.shape}; its spec is {spec.dtype} {spec.shape}")
    ordered = np.ascontiguousarray(array, dtype=spec.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data
