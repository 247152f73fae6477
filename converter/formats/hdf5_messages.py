"""Parts of an HDF5 object header: the type, shape and place of an array, the texts of an attribute.

Errors say what is wrong with the bytes; the caller, who knows the file, adds its name.

Source: HDF5 File Format Specification 3.0, "Object Header Messages".
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from converter.errors import CorruptFileError, UnsupportedSourceError

_INTEGER, _FLOAT, _FIXED_TEXT, _VARYING = 0, 1, 3, 9
_CONTIGUOUS = 1
_UNDEFINED = (1 << 64) - 1
_MAX_BYTES = 1 << 62
# Bytes -> (first bit, bits, exponent bit, its bits, mantissa bit, its bits, bias) of NumPy's floating-point types.
_IEEE = {
    2: (0, 16, 10, 5, 0, 10, 15),
    4: (0, 32, 23, 8, 0, 23, 127),
    8: (0, 64, 52, 11, 0, 52, 1023),
}


class VaryingText(NamedTuple):
    """Where a text lies: its bytes, the address of a global heap, its place there."""

    length: int
    heap: int
    place: int


def unpack(form: str, data: bytes) -> tuple[Any, ...]:
    """Return the numbers at the beginning of some bytes.

    Raises:
        CorruptFileError: There are too few bytes.
    """
    if len(data) < struct.calcsize(form):
        raise CorruptFileError(f"{len(data)} bytes are too few for {struct.calcsize(form)}")
    return struct.unpack_from(form, data)


def decode(data: bytes) -> str:
    """Return a text, which may end in a zero byte before its bytes do.

    Raises:
        CorruptFileError: It is not UTF-8.
    """
    try:
        return data.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{data[:80]!r} is no text: {error}") from error


def read_shape(payload: bytes) -> tuple[int, ...]:
    """Parse a data space.

    Raises:
        CorruptFileError: It is of no known version, or too large for any file.
    """
    version, rank = unpack("<BB", payload)
    if version not in (1, 2):
        raise CorruptFileError(f"a data space has version {version}")
    is_null = version == 2 and unpack("<3xB", payload)[0] == 2
    shape = (0,) if is_null else unpack(f"<{8 if version == 1 else 4}x{rank}Q", payload)
    if math.prod(max(size, 1) for size in shape) >= _MAX_BYTES:
        raise CorruptFileError(f"a shape {str(shape)[:200]} is too large")
    return shape


def read_dtype(payload: bytes) -> np.dtype[np.generic]:
    """Parse the type of numbers that NumPy has, too.

    Raises:
        UnsupportedSourceError: It is something else.
    """
    kind, bits, size = unpack("<BB2xI", payload)
    order = ">" if bits & 1 else "<"
    if kind & 0xF == _FLOAT and bits & 0x41 in (0, 1) and _IEEE.get(size) == unpack("<8xHHBBBBI", payload):
        return np.dtype(f"{order}f{size}")
    if kind & 0xF == _INTEGER and size in (1, 2, 4, 8) and unpack("<8xHH", payload) == (0, 8 * size):
        return np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
    raise UnsupportedSourceError(f"values of {size} bytes of HDF5 class {kind & 0xF} cannot be read; expected numbers")


def read_place(payload: bytes, size_needed: int) -> int:
    """Parse the layout of an array; return where its values begin.

    Raises:
        CorruptFileError: The size is not the one needed.
        UnsupportedSourceError: The values do not lie in one piece.
    """
    version, layout = unpack("<BB", payload)
    if version not in (3, 4) or layout != _CONTIGUOUS:
        raise UnsupportedSourceError("its values are in chunks or compressed; expected one piece")
    offset, size = unpack("<2x2Q", payload)
    if size_needed == 0:
        return 0
    if offset == _UNDEFINED:
        raise UnsupportedSourceError("its values were never written")
    if size != size_needed:
        raise CorruptFileError(f"it has {size} bytes; its shape needs {size_needed}")
    return int(offset)


def read_attribute(payload: bytes) -> tuple[str, list[str | VaryingText] | None]:
    """Parse an attribute: its name and texts; an empty one of any type has none, and None is something else.

    Raises:
        CorruptFileError: It is of no known version, or cut off.
    """
    version, *sizes = unpack("<BxHHH", payload)
    if version not in (1, 2, 3):
        raise CorruptFileError(f"an attribute has version {version}")
    position = 9 if version == 3 else 8  # one more byte for the encoding
    parts = []
    for size in sizes:
        parts.append(payload[position : position + size])
        position += size + (-size % 8 if version == 1 else 0)
    name, count = decode(parts[0]), math.prod(read_shape(parts[2]))
    kind, size = unpack("<B3xI", parts[1])
    if count == 0:
        return name, []
    if kind & 0xF not in (_FIXED_TEXT, _VARYING):
        return name, None
    if count * size > len(payload) - position or (kind & 0xF == _VARYING and size != 16):
        raise CorruptFileError(f"attribute {name!r} holds less than {count} x {size} bytes")
    items = [payload[start : start + size] for start in range(position, position + count * size, size or 1)]
    if kind & 0xF == _FIXED_TEXT:
        return name, [decode(item) for item in items]
    return name, [VaryingText(*unpack("<IQI", item)) for item in items]
