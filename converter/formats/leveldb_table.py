"""LevelDB tables (sorted string tables): the container of a TensorFlow checkpoint's index.

    data block | ... | metaindex block | index block | footer
    block   = entries, restart offsets, number of restarts; then a type byte (0, or 1: snappy) and a checksum
    entry   = sizes of the shared key bytes, own key bytes and value (three varints), own key bytes, value
    footer  = offset and size of the metaindex and the index block, padding, magic number; 48 bytes

Errors say what is wrong with the bytes; the caller adds the name of the file.

Source: LevelDB documentation, "table_format"; TensorFlow's `tsl/lib/io/table`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from converter.errors import CorruptFileError
from converter.formats.protobuf import read_varint
from converter.formats.snappy import decompress

TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_UNCOMPRESSED, _SNAPPY = 0, 1
# Shared key prefixes let a small malicious table grow quadratically; the keys of real ones expand about twofold.
_MAX_EXPANSION = 64


def extend_crc32c(crc: int, data: bytes | memoryview) -> int:
    """Return the CRC-32C of what `crc` covers followed by `data`; start with 0."""
    from crc32c import crc32c  # late: takes longer to import than all readers together

    return int(crc32c(data, crc))


def mask_crc32c(crc: int) -> int:
    """Return a CRC-32C as LevelDB and TensorFlow store it: rotated by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def unmask_crc32c(masked: int) -> int:
    """Return the CRC-32C of a stored one, the inverse of `mask_crc32c`."""
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def read_table(table: bytes) -> dict[bytes, bytes]:
    """Return the entries of a table in key order, every block checked against its checksum.

    Raises:
        CorruptFileError: The bytes are not a table, or damaged.
    """
    if len(table) < _FOOTER_BYTES or not table.endswith(TABLE_MAGIC):
        raise CorruptFileError(f"a table's magic number is missing at the end of its {len(table)} bytes")
    blocks_end = len(table) - _FOOTER_BYTES
    footer = table[blocks_end : -len(TABLE_MAGIC)]
    metaindex_offset, metaindex_size, position = _read_handle(footer, 0)
    index_offset, index_size, position = _read_handle(footer, position)
    if any(footer[position:]):
        raise CorruptFileError("the padding of the footer is not zero")
    _read_block(table, metaindex_offset, metaindex_size, blocks_end)
    index = _read_block(table, index_offset, index_size, blocks_end)

    entries: dict[bytes, bytes] = {}
    data_end, last_key = 0, b""
    for _, handle in _block_entries(index, index_size):
        offset, size, _ = _read_handle(handle, 0)
        if offset < data_end:
            raise CorruptFileError(f"data blocks overlap at byte {offset}")
        data_end = offset + size + _TRAILER_BYTES
        for key, value in _block_entries(_read_block(table, offset, size, blocks_end), size):
            if key <= last_key and entries:
                raise CorruptFileError(f"key {key[:80]!r} is not in order")
            entries[key] = value
            last_key = key
    return entries


def _read_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return (offset of a block, its size without trailer, position after the handle)."""
    offset, position = read_varint(data, position, len(data))
    size, position = read_varint(data, position, len(data))
    return offset, size, position


def _read_block(table: bytes, offset: int, size: int, end: int) -> bytes:
    """Return the content of a block, checked against its checksum."""
    stop = offset + size
    if stop + _TRAILER_BYTES > end:
        raise CorruptFileError(f"a block at byte {offset} of {size} bytes runs past the last block's end at byte {end}")
    stored = int.from_bytes(table[stop + 1 : stop + _TRAILER_BYTES], "little")
    computed = mask_crc32c(extend_crc32c(0, table[offset : stop + 1]))
    if stored != computed:
        raise CorruptFileError(
            f"the block at byte {offset} does not match its checksum: stored {stored:#010x}, computed {computed:#010x}"
        )
    content, compression = table[offset:stop], table[stop]
    if compression == _UNCOMPRESSED:
        return content
    if compression != _SNAPPY:
        raise CorruptFileError(f"the block at byte {offset} has compression type {compression}; expected 0 or 1")
    try:
        return decompress(content)
    except CorruptFileError as error:
        raise CorruptFileError(f"the block at byte {offset}: {error}") from error


def _block_entries(block: bytes, stored_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of one block and check that its restart points are entries with complete keys.

    Args:
        block: its content.
        stored_size: bytes that it takes in the file, which bound what it may expand to.
    """
    end = len(block) - 4
    count = int.from_bytes(block[end:], "little") if end >= 0 else 0
    end -= 4 * count
    if end < 0 or count == 0:
        raise CorruptFileError(f"a block of {len(block)} bytes cannot have {count} restart points")
    whole_keys = {0}
    position, key, budget = 0, b"", _MAX_EXPANSION * stored_size
    while position < end:
        start = position
        # One byte each is the usual case; the restart array behind `end` makes the three reads safe.
        shared, own, value_size = block[position : position + 3]
        if shared | own | value_size < 0x80:
            position += 3
        else:
            shared, position = read_varint(block, position, end)
            own, position = read_varint(block, position, end)
            value_size, position = read_varint(block, position, end)
        value_start = position + own
        if shared > len(key) or value_start + value_size > end:
            raise CorruptFileError(f"the entry at byte {start} of a block does not fit: {shared}, {own}, {value_size}")
        budget -= shared + own
        if budget < 0:
            raise CorruptFileError(f"the keys of a block expand to more than {_MAX_EXPANSION} times its size")
        if shared == 0:
            whole_keys.add(start)
        key = key[:shared] + block[position:value_start]
        position = value_start + value_size
        yield key, block[value_start:position]
    if not whole_keys.issuperset(struct.unpack_from(f"<{count}I", block, end)):
        raise CorruptFileError("a restart point of a block is not an entry with a complete key")
