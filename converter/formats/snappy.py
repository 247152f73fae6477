"""Raw snappy, the compression of some LevelDB blocks: runs of literal bytes, and copies of what was written before.

    compressed = length of the result (varint), elements
    element    = tag byte, more bytes of the number or offset, literal bytes
    tag        = the lowest two bits say which kind, the others a length or a part of the offset

| kind | length                                       | offset backwards                          |
| ---- | -------------------------------------------- | ----------------------------------------- |
| 0    | literal: tag + 1, or 1 to 4 bytes behind it  | -                                         |
| 1    | 3 bits of the tag + 4                        | the other 3 bits of the tag, one byte     |
| 2    | tag + 1                                      | two bytes                                 |
| 3    | tag + 1                                      | four bytes                                |

Written here instead of taken from `cramjam` (4.5 MB of machine code for eight compressions) or `python-snappy` (which
needs it): the blocks of an index are small, and few files have any. Errors say what is wrong with the bytes; the caller
adds the name of the file.

Source: Snappy's "format_description.txt".
"""

from __future__ import annotations

from converter.errors import CorruptFileError
from converter.formats.protobuf import read_varint

_MAX_EXPANSION = 64  # no element makes more: the densest are copies of 64 bytes in three
_MAX_INLINE = 60  # a literal's length up to this stands in its tag
_OFFSET_BYTES = {1: 1, 2: 2, 3: 4}


def decompress(data: bytes) -> bytes:
    """Return what was compressed.

    Time and memory are bounded by the size of the data, whatever length they declare.

    Raises:
        CorruptFileError: An element runs past the end, copies what is not there, or the length is not the declared one.
    """
    end = len(data)
    size, position = read_varint(data, 0, end)
    if size > _MAX_EXPANSION * end:
        raise CorruptFileError(f"{end} bytes of snappy declare {size} bytes, more than they can hold")
    result = bytearray()
    while position < end:
        kind, tag = data[position] & 3, data[position] >> 2
        position += 1
        if kind == 0:
            length, position = _literal_length(data, tag, position)
            result += _take(data, position, length)
            position += length
        else:
            offset_bytes = _OFFSET_BYTES[kind]
            offset = int.from_bytes(_take(data, position, offset_bytes), "little")
            position += offset_bytes
            length = tag + 1
            if kind == 1:
                offset, length = offset | tag >> 3 << 8, (tag & 7) + 4
            if not 0 < offset <= len(result):
                raise CorruptFileError(f"snappy copies from {offset} bytes back, where {len(result)} are written")
            start = len(result) - offset
            pattern = result[start : start + length]
            result += (pattern * (length // len(pattern) + 1))[:length]  # a copy may run into what it writes
        if len(result) > size:
            break
    if len(result) != size:
        shown = f"more than {size}" if len(result) > size else len(result)
        raise CorruptFileError(f"snappy declares {size} bytes and holds {shown}")
    return bytes(result)


def _literal_length(data: bytes, tag: int, position: int) -> tuple[int, int]:
    """Return the length of a literal and the position of its first byte."""
    if tag < _MAX_INLINE:
        return tag + 1, position
    count = tag - _MAX_INLINE + 1
    return int.from_bytes(_take(data, position, count), "little") + 1, position + count


def _take(data: bytes, position: int, count: int) -> bytes:
    if count > len(data) - position:
        raise CorruptFileError(f"snappy needs {count} bytes at byte {position} and {len(data) - position} are left")
    return data[position : position + count]
