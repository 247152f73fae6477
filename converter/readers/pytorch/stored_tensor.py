"""A tensor in a mapped file, whose values are read only when somebody asks for them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.leveldb_table import extend_crc32c
from converter.plan.ops import Array, Shape

CHECKSUMS: Mapping[str, Callable[[memoryview], int]] = {"CRC-32": zlib.crc32, "CRC-32C": partial(extend_crc32c, 0)}
MAX_AXES, MAX_COUNT = 32, 1 << 48
BFLOAT16 = "bfloat16"  # NumPy has none: its bits are the upper half of a float32
# PyTorch's name of a dtype -> the dtype in which NumPy reads its values.
ELEMENTS: Mapping[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    BFLOAT16: np.dtype("<u2"),
    **{f"{sign}int{bits}": np.dtype(f"<{sign or 'i'}{bits // 8}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": np.dtype("?"),
}


@dataclass(eq=False)
class Storage:
    """Values in a row, which tensors share.

    Attributes:
        key: name in the file.
        dtype: of the values, unless a tensor says otherwise.
        item_bytes: size of a value.
        count: how many values there must be.
        data: the values, as bytes of the file.
        checksum: of the data; None where the file has none.
        algorithm: of the checksum, one of `CHECKSUMS`.
    """

    key: str
    dtype: str
    item_bytes: int
    count: int
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    checksum: int | None = None
    algorithm: str = "CRC-32"
    _is_sound: bool = False

    def place(self, data: memoryview, checksum: int | None = None) -> None:
        """Set the data; CorruptFileError if there are too many or too few."""
        if len(data) != self.count * self.item_bytes:
            raise CorruptFileError(f"{self.key} has {len(data)} bytes; expected {self.count * self.item_bytes}")
        self.data, self.checksum = data, checksum

    def require_sound(self) -> None:
        """Compare the data with their checksum, once; CorruptFileError if they differ."""
        if not self._is_sound and self.checksum not in (None, CHECKSUMS[self.algorithm](self.data)):
            raise CorruptFileError(f"{self.key} does not match its checksum ({self.algorithm})")
        self._is_sound = True


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a storage. Offset and stride count values, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: Shape
    stride: Shape

    def __post_init__(self) -> None:
        if not len(self.stride) == len(self.shape) <= MAX_AXES:
            raise ValueError(f"a tensor with {len(self.shape)} axes and {len(self.stride)} strides")
        numbers = (self.offset, *self.shape, *self.stride)
        if not all(isinstance(n, int) and 0 <= n < MAX_COUNT for n in numbers):
            raise ValueError("a tensor with an impossible shape, stride or offset")
        if math.prod(n or 1 for n in self.shape) >= MAX_COUNT:  # NumPy refuses even an empty array of such a shape
            raise ValueError(f"a tensor of the impossible shape {self.shape}")

    def array(self) -> Array:
        """Return the values as a read-only view of the file; bfloat16 is widened to float32, which is exact.

        Raises:
            CorruptFileError: The file does not hold all of them, or they do not match their checksum.
            UnsupportedSourceError: NumPy does not have the dtype, or the tensor repeats values of its storage.
        """
        if self.dtype not in ELEMENTS:
            raise UnsupportedSourceError(f"values of {self.dtype} cannot be read; save them again after .float()")
        self.storage.require_sound()
        bits, stored = ELEMENTS[self.dtype], self.storage.data
        count, available = math.prod(self.shape), len(stored) // bits.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if count and last >= available:
            raise CorruptFileError(f"{self.storage.key} has {available} values; the tensor's last is at {last}")
        if count > available:  # a file must not ask for more memory than it has bytes
            raise UnsupportedSourceError(
                f"it repeats its stored values ({available}) to make {count}; save it again after .contiguous()"
            )
        steps = [step * bits.itemsize for step in self.stride]
        values: Array = np.ndarray(self.shape, bits, stored, self.offset * bits.itemsize if count else 0, steps)
        if self.dtype == BFLOAT16:
            values = values.astype(np.uint32)
            values <<= 16
            values = values.view(np.float32)
        return values
