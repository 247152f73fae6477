"""A writer of small TensorBundles, simple and slow, with an option for every fault that a reader must notice."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19, "string": 7}
RESOURCE = 20


def masked(data: bytes, crc: int | None = None) -> int:
    crc = crc32c(data) if crc is None else crc
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def varint(value: int) -> bytes:
    value %= 1 << 64
    low = b""
    while value >= 0x80:
        low += bytes([value % 0x80 + 0x80])
        value //= 0x80
    return low + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<I", value)


def header(shards: int = 1, *, big_endian: bool = False, min_consumer: int = 0) -> bytes:
    version = number(1, 1) + (number(2, min_consumer) if min_consumer else b"")
    return number(1, shards) + (number(2, 1) if big_endian else b"") + nested(3, version)


def entry(
    dtype: int, shape: Sequence[int], data: bytes, *, shard: int = 0, offset: int = 0, crc: int | None = None
) -> bytes:
    dimensions = b"".join(nested(2, number(1, size)) for size in shape)
    places = number(3, shard) + number(4, offset) + number(5, len(data))
    return number(1, dtype) + nested(2, dimensions) + places + fixed32(6, masked(data) if crc is None else crc)


def sliced_entry(dtype: int, shape: Sequence[int], slices: Sequence[Sequence[tuple[int, int] | None]]) -> bytes:
    """The entry of a partitioned variable; an axis of a slice is (start, length) or None for all of it."""
    message = number(1, dtype) + nested(2, b"".join(nested(2, number(1, size)) for size in shape))
    for axes in slices:
        extents = [b"" if axis is None else number(1, axis[0]) + number(2, axis[1]) for axis in axes]
        message += nested(7, b"".join(nested(1, extent) for extent in extents))
    return message


def block(entries: Sequence[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    content, restarts, last = b"", [0], b""
    for place, (key, value) in enumerate(entries):
        shared = 0
        if place % restart_interval:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif place:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def stored(content: bytes, compression: int = 0) -> bytes:
    content += bytes([compression])
    return content + struct.pack("<I", masked(content))


def table(
    entries: Mapping[bytes, bytes],
    per_block: int = 10,
    compression: int = 0,
    compress: Callable[[bytes], bytes] = lambda content: content,
) -> bytes:
    """A LevelDB table; `per_block` entries share a data block, which `compress` makes smaller."""
    items, content, index = sorted(entries.items()), b"", []
    for start in range(0, len(items), per_block):
        part = compress(block(items[start : start + per_block]))
        index.append((items[start : start + per_block][-1][0], varint(len(content)) + varint(len(part))))
        content += stored(part, compression)
    return finish(content, block(index))


def finish(content: bytes, index: bytes) -> bytes:
    """Add metaindex block, index block and footer to the data blocks."""
    meta = block([])
    handles = varint(len(content)) + varint(len(meta))
    content += stored(meta)
    handles += varint(len(content)) + varint(len(index))
    return content + stored(index) + handles.ljust(40, b"\0") + MAGIC


def encode_strings(strings: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the bytes of a string tensor, and its checksum."""
    crc = crc32c(b"".join(struct.pack("<I", len(string)) for string in strings))
    checked = struct.pack("<I", masked(b"", crc)) + b"".join(strings)
    return b"".join(varint(len(string)) for string in strings) + checked, masked(b"", crc32c(checked, crc))


def write_bundle(prefix: Path, tensors: Mapping[str, Any], shards: int = 1, **options: Any) -> Path:
    """Write arrays, and strings as object arrays, round robin over the shards; return the prefix.

    The options are those of the index, see `table`.
    """
    records = {b"": header(shards)}
    contents = [b""] * shards
    for place, (name, value) in enumerate(sorted(tensors.items())):
        array, shard = np.asarray(value), place % shards
        crc = None
        if array.dtype == object:
            data, crc = encode_strings(list(array.flat))
        else:
            data = array.tobytes()
        dtype = DTYPES["string" if array.dtype == object else str(array.dtype)]
        records[name.encode()] = entry(dtype, array.shape, data, shard=shard, offset=len(contents[shard]), crc=crc)
        contents[shard] += data
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.index").write_bytes(table(records, **options))
    for shard, content in enumerate(contents):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    return prefix


def write_records(prefix: Path, records: Mapping[bytes, bytes], data: bytes = b"", **options: Any) -> Path:
    """Write an index of raw entries behind a header with `options`, and one data file; return the prefix."""
    Path(f"{prefix}.index").write_bytes(table({b"": header(**options), **records}))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix
