"""The index of a TensorFlow V2 checkpoint (TensorBundle): where each variable lies, without reading any value.

The table's key "" holds the BundleHeaderProto, every other key a BundleEntryProto. Everything that can be checked
without the data files is checked here: sizes against shapes, overlaps inside a shard, slices against their variable.

Errors describe the fault in the bytes; the caller, who knows the file, adds its name.

Source: TensorFlow's `tensor_bundle.proto`, `tensor_shape.proto`, `types.proto` and `util/tensor_bundle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.leveldb_table import read_table
from converter.formats.protobuf import Message
from converter.formats.tensor_slices import encode_slice_key, read_extents, region_of
from converter.source import VariableInfo

_HEADER_KEY = b""
_BIG_ENDIAN = 1
_NEWEST_VERSION = 1
_MAX_RANK = 254  # TensorFlow's limit
_MAX_BYTES = 1 << 62  # far beyond any file, and small enough for NumPy's signed 64-bit sizes

_ALL_NAMES = (  # in the order of TensorFlow's numbers, which start at 1
    "float32 float64 int32 uint8 int16 int8 string complex64 int64 bool qint8 quint8 qint32 bfloat16 qint16 quint16 "
    "uint16 complex128 float16 resource variant uint32 uint64 float8_e5m2 float8_e4m3fn float8_e4m3fnuz "
    "float8_e4m3b11fnuz float8_e5m2fnuz int4 uint4 int2 uint2 float4_e2m1fn"
)
_NUMPY_NAMES = "float16 float32 float64 complex64 complex128 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
_DTYPE_NAMES: Mapping[int, str] = dict(enumerate(_ALL_NAMES.split(), start=1))
# TensorFlow's name -> layout of the values in the data files; strings have another layout.
STORED_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _NUMPY_NAMES.split()},
    "bfloat16": np.dtype("<u2"),
}


class BundleEntry(NamedTuple):
    """Where the values of a variable, or of one slice of it, are stored; `crc32c` is masked."""

    info: VariableInfo
    shard: int
    offset: int
    size: int
    crc32c: int
    slice_protos: tuple[bytes, ...] = ()


class Slice(NamedTuple):
    """One stored part of a partitioned variable: `region` of the full tensor, and the entry with its values."""

    region: tuple[slice, ...]
    entry: BundleEntry


class BundleIndex(NamedTuple):
    """All variables of a bundle; the partitioned ones have slices in place of values."""

    shards: int
    entries: Mapping[str, BundleEntry]
    slices: Mapping[str, tuple[Slice, ...]]


def read_index(table: bytes) -> BundleIndex:
    """Parse the content of an index file.

    Raises:
        CorruptFileError: The bytes are damaged or contradict themselves.
        UnsupportedSourceError: The bundle is big-endian, or of a newer version.
    """
    records = read_table(table)
    if _HEADER_KEY not in records:
        raise CorruptFileError('the table has no bundle header (key "")')
    shards = _read_header(records.pop(_HEADER_KEY))
    stored: dict[str, BundleEntry] = {}
    slice_entries: dict[bytes, BundleEntry] = {}
    key = _HEADER_KEY
    try:
        for key, value in records.items():
            entry = _read_entry(value, shards)
            if key.startswith(b"\x00"):
                slice_entries[key] = entry
            else:
                stored[key.decode()] = entry
    except (CorruptFileError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"entry {key[:200]!r}: {error}") from error
    _check_overlaps([*stored.values(), *slice_entries.values()])
    return BundleIndex(shards, stored, _join_slices(stored, slice_entries))


def _read_header(data: bytes) -> int:
    """Return the number of data files of a BundleHeaderProto."""
    header = Message(data)
    shards = header.integer(1)
    if shards < 1:
        raise CorruptFileError(f"the bundle header counts {shards} data files")
    if header.integer(2) == _BIG_ENDIAN:
        raise UnsupportedSourceError("the bundle is big-endian; expected little-endian values")
    needed = Message(header.payload(3)).integer(2)
    if needed > _NEWEST_VERSION:
        raise UnsupportedSourceError(f"the bundle needs a reader of version {needed}; this one knows {_NEWEST_VERSION}")
    return shards


def _read_entry(data: bytes, shards: int) -> BundleEntry:
    """Parse a BundleEntryProto and check its numbers against each other."""
    message = Message(data)
    info, size_needed = describe_tensor(message.integer(1), message.payload(2))
    shard, offset, size = message.integer(3), message.integer(4), message.integer(5)
    slice_protos = tuple(message.payloads(7))
    if not 0 <= shard < shards:
        raise CorruptFileError(f"it is stored in data file {shard} of {shards}")
    if not (0 <= offset < _MAX_BYTES and 0 <= size < _MAX_BYTES):
        raise CorruptFileError(f"it has {size} bytes at offset {offset}")
    if slice_protos:
        size_needed = 0
    if size_needed not in (None, size):
        raise CorruptFileError(f"it has {size} bytes; {info.dtype} of shape {info.shape} needs {size_needed}")
    return BundleEntry(info, shard, offset, size, message.fixed32(6), slice_protos)


@lru_cache(maxsize=4096)  # a checkpoint has thousands of entries, but few different shapes
def describe_tensor(dtype: int, shape_proto: bytes) -> tuple[VariableInfo, int | None]:
    """Return dtype and shape, and the size of the values in bytes (None if the dtype has no fixed size).

    Args:
        dtype: TensorFlow's number.
        shape_proto: a TensorShapeProto.

    Raises:
        CorruptFileError: They do not describe a tensor.
    """
    if dtype < 1:
        raise CorruptFileError(f"its dtype has the invalid number {dtype}")
    shape_message = Message(shape_proto)
    shape = tuple(Message(dimension).integer(1) for dimension in shape_message.payloads(2))
    if shape_message.integer(3) or len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise CorruptFileError(f"its shape is not valid: {str(shape)[:200]}")
    name = _DTYPE_NAMES.get(dtype, f"dtype {dtype}")
    stored = STORED_DTYPES.get(name)
    itemsize = stored.itemsize if stored is not None else 1
    if math.prod(max(size, 1) for size in shape) * itemsize >= _MAX_BYTES:
        raise CorruptFileError(f"its shape {shape} is too large")
    return VariableInfo(name, shape), None if stored is None else math.prod(shape) * itemsize


def _check_overlaps(entries: Iterable[BundleEntry]) -> None:
    """Refuse entries that share bytes: all variables together are then no larger than the data files."""
    extents = sorted((entry.shard, entry.offset, entry.size) for entry in entries if entry.size)
    for (shard, offset, size), (next_shard, next_offset, _) in pairwise(extents):
        if shard == next_shard and offset + size > next_offset:
            raise CorruptFileError(f"two variables share byte {next_offset} of data file {shard}")


def _join_slices(
    entries: Mapping[str, BundleEntry], slice_entries: dict[bytes, BundleEntry]
) -> dict[str, tuple[Slice, ...]]:
    """Find the entries with the slices of the partitioned variables; each must be used exactly once."""
    slices: dict[str, tuple[Slice, ...]] = {}
    for name, entry in entries.items():
        if not entry.slice_protos:
            continue
        parts = []
        for proto in entry.slice_protos:
            extents = read_extents(proto, entry.info.shape)
            region = region_of(extents, entry.info.shape)
            part = slice_entries.pop(encode_slice_key(name, extents), None)
            expected = VariableInfo(entry.info.dtype, tuple(axis.stop - axis.start for axis in region))
            if part is None or part.info != expected or part.slice_protos:
                raise CorruptFileError(f"entry {name!r}: slice {extents} is {part and part.info}; expected {expected}")
            parts.append(Slice(region, part))
        if sum(math.prod(part.entry.info.shape) for part in parts) != math.prod(entry.info.shape):
            raise CorruptFileError(f"entry {name!r}: its {len(parts)} slices do not add up to shape {entry.info.shape}")
        slices[name] = tuple(parts)
    if slice_entries:
        raise CorruptFileError(f"slice {next(iter(slice_entries))[:200]!r} does not belong to any variable")
    return slices
