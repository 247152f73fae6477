"""LevelDB tables: blocks, shared prefixes, checksums, and tables made to hurt."""

from __future__ import annotations

import struct
import time

import pytest

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError
from converter.formats.leveldb_table import extend_crc32c, mask_crc32c, read_table, unmask_crc32c

ENTRIES = {f"scope/variable_{place:03d}/name".encode(): b"v" * place for place in range(200)}


@pytest.mark.parametrize("per_block", [1, 7, 16, 17, 200])
def test_reads_what_was_written(per_block: int) -> None:
    assert read_table(tiny.table(ENTRIES, per_block)) == ENTRIES


def test_checksum_of_a_known_text() -> None:
    # RFC 3720, B.4: 32 bytes of zeros; and the mask as LevelDB defines it.
    assert extend_crc32c(extend_crc32c(0, bytes(12)), bytes(20)) == extend_crc32c(0, bytes(32)) == 0x8A9136AA
    assert mask_crc32c(0x8A9136AA) == tiny.masked(bytes(32))
    assert (mask_crc32c(0), unmask_crc32c(mask_crc32c(0x8A9136AA))) == (0xA282EAD8, 0x8A9136AA)


def test_every_bit_and_every_truncation_is_noticed() -> None:
    entries = dict(list(ENTRIES.items())[:20])
    table = tiny.table(entries)
    for size in range(len(table)):
        with pytest.raises(CorruptFileError):
            read_table(table[:size])
    unnoticed = []
    for bit in range(8 * len(table)):
        damaged = bytearray(table)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert read_table(bytes(damaged)) == entries
            unnoticed.append(bit)
        except CorruptFileError:
            pass
    # The one bit that changes nothing: the footer's last number, continued with a byte of padding, stays the same.
    assert len(unnoticed) == 1
    assert unnoticed[0] > 8 * (len(table) - 48)


def test_unknown_compression_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="the block at byte 0: snappy"):  # the content is not
        read_table(tiny.table(ENTRIES, compression=1))
    with pytest.raises(CorruptFileError, match="compression type 7"):
        read_table(tiny.table(ENTRIES, compression=7))


def one_block(content: bytes) -> bytes:
    """A table whose only data block has the given content and a right checksum."""
    return tiny.finish(tiny.stored(content), tiny.block([(b"z", tiny.varint(0) + tiny.varint(len(content)))]))


RESTARTS = struct.pack("<II", 0, 1)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "0 restart points"),
        (struct.pack("<I", 0), "0 restart points"),
        (struct.pack("<I", 2**32 - 1), "4294967295 restart points"),
        (b"\x01\x01\x00a" + RESTARTS, "does not fit"),  # shares a byte, but there is no key before
        (b"\x00\x05\x00a" + RESTARTS, "does not fit"),  # the key runs into the restart points
        (b"\x00\x01\x09a" + RESTARTS, "does not fit"),
        (b"\x00\x01" + RESTARTS, "does not fit"),
        (b"\x00\x80\x80\x80\x80\x80\x80" + RESTARTS, "runs past the end"),
        (b"\x00\x01\x00b\x00\x01\x00a" + RESTARTS, "not in order"),
        (b"\x00\x01\x00a\x00\x01\x00a" + RESTARTS, "not in order"),
        (b"\x00\x02\x00aa\x01\x01\x00b" + struct.pack("<III", 0, 5, 2), "restart point"),  # not a complete key
        (b"\x00\x01\x00a" + struct.pack("<III", 0, 3, 2), "restart point"),  # not an entry
    ],
)
def test_refuses_blocks_that_contradict_themselves(content: bytes, text: str) -> None:
    with pytest.raises(CorruptFileError, match=text):
        read_table(one_block(content))


def test_the_smallest_block_is_fine() -> None:
    """The negative control of the cases above: the same construction, without a fault."""
    assert read_table(one_block(b"\x00\x01\x00a\x00\x01\x00b" + RESTARTS)) == {b"a": b"", b"b": b""}
    assert read_table(one_block(RESTARTS)) == {}


def test_blocks_must_not_overlap() -> None:
    """Many handles of one block would let a small file cost much time."""
    content = tiny.block([(b"a", b"")])
    handle = tiny.varint(0) + tiny.varint(len(content))
    table = tiny.finish(tiny.stored(content), tiny.block([(b"a", handle), (b"b", handle)]))
    with pytest.raises(CorruptFileError, match="overlap"):
        read_table(table)


def test_shared_prefixes_cannot_take_all_memory() -> None:
    """Some 200 kB that stand for 500 MB of keys are refused at once."""
    size = 50_000
    content = tiny.varint(0) + tiny.varint(size) + b"\x00" + b"a" * size
    step = tiny.varint(size - 1) + b"\x01\x00"
    content += b"".join(step + bytes([letter]) for letter in range(98, 250))
    content += tiny.varint(size) + b"\x01\x00a" + 10_000 * (tiny.varint(size) + b"\x01\x00b")
    started = time.perf_counter()
    with pytest.raises(CorruptFileError, match="expand"):
        read_table(one_block(content + RESTARTS))
    assert time.perf_counter() - started < 2
