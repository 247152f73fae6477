"""Files of records as TensorFlow writes them (TFRecord): each has a length and two checksums, all of them checked.

A record is: its length (uint64), the checksum of these 8 bytes (uint32), its bytes, the checksum of those; numbers are
little-endian, checksums are masked CRC-32C. Source: TensorFlow documentation, "TFRecord and tf.train.Example".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from crc32c import crc32c

from effdet_torch.errors import EvaluationError
from effdet_torch.untrusted.files import MAX_RECORDS_BYTES, map_file, reason_of

HEAD, FOOT = struct.Struct("<QI"), struct.Struct("<I")
LENGTH_BYTES = 8
MASK = 0xA282EAD8
GZIP = b"\x1f\x8b"


def read_records(path: Path) -> Iterator[tuple[int, memoryview]]:
    """Yield the records of a file; the bytes are read from the disk as they are used.

    Yields:
        (offset of the record's bytes in the file, the bytes).

    Raises:
        EvaluationError: The file cannot be read, holds no records, is damaged or truncated; names the record.
    """
    try:
        data = map_file(path, MAX_RECORDS_BYTES)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    if data[:2] == GZIP:
        raise EvaluationError(f"{path} is compressed; unpack it with gunzip, or write it without compression")
    if not data:
        raise EvaluationError(f"{path} is empty; expected records")
    position, number = 0, 0
    while position < len(data):
        number += 1
        try:
            record = _record(data, position)
        except ValueError as error:
            raise EvaluationError(
                f"{path}, record {number} at byte {position}: {error}; copy the file again, or write it anew"
            ) from error
        yield position + HEAD.size, record
        position += HEAD.size + len(record) + FOOT.size


def _record(data: memoryview, position: int) -> memoryview:
    """Return the bytes of the record that starts at a position.

    Raises:
        ValueError: What is wrong with it.
    """
    left = len(data) - position - HEAD.size - FOOT.size
    if left < 0:
        raise ValueError(f"the file ends after {len(data) - position} bytes of it")
    length, checksum = HEAD.unpack_from(data, position)
    if masked(data[position : position + LENGTH_BYTES]) != checksum:
        is_first = "this is not a TFRecord file, or " if position == 0 else ""
        raise ValueError(f"{is_first}its length is damaged (checksum)")
    if length > left:
        raise ValueError(f"it has {length} bytes and {left} are left: the file is truncated")
    start = position + HEAD.size
    record = data[start : start + length]
    if masked(record) != FOOT.unpack_from(data, start + length)[0]:
        raise ValueError("its bytes are damaged (checksum)")
    return record


def masked(content: bytes | memoryview) -> int:
    """Return the checksum of bytes in the form in which records store it."""
    found = int(crc32c(content))
    return ((found >> 15 | found << 17) + MASK) & 0xFFFFFFFF
