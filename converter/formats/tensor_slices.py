"""Slices of partitioned variables: the part of the tensor in each one, and the key under which it is stored.

TensorFlow splits a large variable over several entries. The entry under the variable's name lists the slices; each
slice's values have another entry, whose key is (0, name, rank, start and length per axis) in "ordered code".

Source: TensorFlow's `TensorSliceProto`, `EncodeTensorNameSlice` and `tsl/lib/strings/ordered_code`.
"""

from __future__ import annotations

from converter.errors import CorruptFileError
from converter.formats.protobuf import Message

# (start, length) per axis; length WHOLE_AXIS takes all of it.
Extents = tuple[tuple[int, int], ...]
WHOLE_AXIS = -1


def read_extents(data: bytes, shape: tuple[int, ...]) -> Extents:
    """Parse a TensorSliceProto of a tensor of the given shape.

    Raises:
        CorruptFileError: The slice has another rank or extends beyond the tensor.
    """
    extents: list[tuple[int, int]] = []
    for payload in Message(data).payloads(1):
        extent = Message(payload)
        extents.append((extent.integer(1), extent.integer(2) if extent.has_integer(2) else WHOLE_AXIS))
    if len(extents) != len(shape):
        raise CorruptFileError(f"a slice has {len(extents)} axes; the tensor has {len(shape)}")
    for (start, length), size in zip(extents, shape, strict=True):
        is_whole = (start, length) == (0, WHOLE_AXIS)
        if not is_whole and not 0 <= start <= start + length <= size:
            raise CorruptFileError(f"a slice from {start} of length {length} exceeds an axis of size {size}")
    return tuple(extents)


def region_of(extents: Extents, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slice as indices of the full tensor."""
    return tuple(
        slice(start, size if length == WHOLE_AXIS else start + length)
        for (start, length), size in zip(extents, shape, strict=True)
    )


def encode_slice_key(name: str, extents: Extents) -> bytes:
    """Return the key under which a slice's entry is stored."""
    # 00 01 ends a string, so a 00 inside becomes 00 FF. (FF would be escaped as well, but UTF-8 has none.)
    escaped = name.encode().replace(b"\x00", b"\x00\xff")
    parts = [_encode_unsigned(0), escaped, b"\x00\x01", _encode_unsigned(len(extents))]
    for start, length in extents:
        parts += [_encode_signed(start), _encode_signed(length)]
    return b"".join(parts)


def _encode_unsigned(value: int) -> bytes:
    """Return the number of significant bytes, then these bytes, most significant first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _encode_signed(value: int) -> bytes:
    """Return `value` in n bytes of 7 payload bits each, most significant first; n leading ones give the length.

    Two's complement, with the leading ones xor-ed over the sign bits: the bytes sort like the numbers.
    """
    magnitude = value if value >= 0 else ~value
    size = magnitude.bit_length() // 7 + 1
    leading_ones = ((1 << size) - 1) << (7 * size)
    return ((value ^ leading_ones) & ((1 << 8 * size) - 1)).to_bytes(size, "big")
