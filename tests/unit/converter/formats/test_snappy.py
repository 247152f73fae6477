"""Raw snappy: every kind of element, damage of every kind, and another implementation on random data."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError
from converter.formats.leveldb_table import read_table
from converter.formats.snappy import decompress
from converter.readers.tensorflow.tensorbundle import TensorBundle

MODULE = "reference/sources/snappy_module/variables/variables"


def literal(content: bytes, length_bytes: int = 0) -> bytes:
    length = len(content) - 1
    if length_bytes:
        return bytes([(59 + length_bytes) << 2]) + length.to_bytes(length_bytes, "little") + content
    return bytes([length << 2]) + content


def copy(offset: int, length: int, kind: int) -> bytes:
    if kind == 1:
        return bytes([1 | (length - 4) << 2 | offset >> 8 << 5, offset & 0xFF])
    return bytes([kind | (length - 1) << 2]) + offset.to_bytes({2: 2, 3: 4}[kind], "little")


def compressed(size: int, *elements: bytes) -> bytes:
    return tiny.varint(size) + b"".join(elements)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([], b""),
        ([literal(b"a")], b"a"),
        ([literal(bytes(60))], bytes(60)),
        *(([literal(b"ab" * 40, count)], b"ab" * 40) for count in (1, 2, 3, 4)),
        ([literal(b"abcd"), copy(4, 4, 1)], b"abcdabcd"),
        ([literal(b"abcd"), copy(3, 2, 2)], b"abcdbc"),
        ([literal(b"abcd"), copy(1, 64, 3)], b"abcd" + b"d" * 64),
        ([literal(b"abc"), copy(2, 11, 1)], b"abc" + b"bc" * 5 + b"b"),  # runs into what it writes
        ([literal(bytes(2047) + b"x", 2), copy(2047, 4, 1), copy(5, 1, 2)], bytes(2047) + b"x" + bytes(4) + b"x"),
        ([literal(b"a" + bytes(65534), 2), copy(65535, 1, 2)], b"a" + bytes(65534) + b"a"),
        ([literal(b"a" + bytes(65599), 3), copy(65600, 1, 3)], b"a" + bytes(65599) + b"a"),
    ],
)
def test_elements(elements: list[bytes], expected: bytes) -> None:
    assert decompress(compressed(len(expected), *elements)) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "runs past the end"),
        (b"\xff" * 11, "more than 64 bits"),
        (compressed(1 << 40, literal(b"a")), "more than they can hold"),
        (compressed(2, literal(b"a")), "declares 2 bytes and holds 1"),
        (compressed(1, literal(b"ab")), "declares 1 bytes and holds more than 1"),
        (compressed(3, literal(b"abc")[:-1]), "needs 3 bytes at byte 2 and 2 are left"),
        (compressed(80, b"\xf4\x4f"), "needs 2 bytes at byte 2 and 1 are left"),
        (compressed(80, b"\xfc\xff\xff\xff\xff"), "needs 4294967296 bytes"),
        (compressed(9, literal(b"abcd"), copy(5, 4, 1)), "copies from 5 bytes back, where 4 are written"),
        (compressed(9, literal(b"abcd"), copy(0, 4, 2)), "copies from 0 bytes back"),
        (compressed(9, literal(b"abcd"), copy(4, 4, 3)[:-1]), "needs 4 bytes"),
    ],
)
def test_damage(data: bytes, words: str) -> None:
    with pytest.raises(CorruptFileError, match=words):
        decompress(data)


ELEMENTS = st.one_of(
    st.binary(min_size=1, max_size=60).map(literal),
    st.tuples(st.integers(0, 2047), st.integers(4, 11)).map(lambda pair: copy(*pair, 1)),
    st.tuples(st.integers(0, 70), st.integers(1, 64)).map(lambda pair: copy(*pair, 2)),
    st.binary(max_size=6),
)


@settings(max_examples=400, deadline=None)
@given(size=st.integers(0, 2**64 - 1) | st.integers(0, 500), elements=st.lists(ELEMENTS, max_size=20))
def test_nothing_but_the_declared_size_or_an_error(size: int, elements: list[bytes]) -> None:
    data = compressed(size, *elements)
    with suppress(CorruptFileError):
        assert len(decompress(data)) == size <= 64 * len(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"scope/", b"kernel", b"\x00", b"bn-3", bytes(100)]) | st.binary(max_size=90)))
def test_what_another_implementation_compressed(parts: list[bytes]) -> None:
    raw = pytest.importorskip("cramjam", reason="no other implementation of snappy here").snappy
    content = b"".join(parts) * 3
    data = bytes(raw.compress_raw(content))
    assert decompress(data) == content
    for end in range(len(data)):
        with pytest.raises(CorruptFileError):
            decompress(data[:end])


def outcome(read: Callable[[bytes], Any], data: bytearray) -> bytes | None:
    """Return what was compressed, or None if it is refused."""
    try:
        return bytes(read(bytes(data)))
    except Exception:
        return None


def test_as_another_implementation_on_damage() -> None:
    """Every changed bit: both refuse, or both give the same."""
    raw = pytest.importorskip("cramjam", reason="no other implementation of snappy here").snappy
    data = bytes(raw.compress_raw(b"fpn_cells/cell_0/fnode1/WSM fpn_cells/cell_0/fnode2/WSM " * 3))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert outcome(decompress, damaged) == outcome(raw.decompress_raw, damaged)


def test_damaged_block_of_a_table_is_named() -> None:
    block = tiny.block([(b"a", b"b" * 20)])
    content = compressed(len(block), literal(block))
    handle = tiny.varint(0) + tiny.varint(len(content))
    table = tiny.finish(tiny.stored(content, 1), tiny.block([(b"a", handle)]))
    assert read_table(table) == {b"a": b"b" * 20}
    content = compressed(len(block) + 1, literal(block))
    table = tiny.finish(tiny.stored(content, 1), tiny.block([(b"a", handle)]))
    with pytest.raises(CorruptFileError, match=f"the block at byte 0: snappy declares {len(block) + 1} bytes"):
        read_table(table)


def test_a_small_block_cannot_take_all_memory() -> None:
    """What a block may expand to is measured by its compressed size: here 3 kB that stand for 7 MB of keys."""
    size = 50_000
    first = tiny.varint(0) + tiny.varint(size) + b"\x00"
    steps = b"".join(tiny.varint(size - 1) + b"\x01\x00" + bytes([letter]) for letter in range(98, 250))
    steps += struct.pack("<II", 0, 1)
    copies = (size - 1) // 50
    packed = compressed(len(first) + size + len(steps), literal(first + b"a"), copy(1, 50, 2) * copies)
    packed += literal(b"a" * (size - 1 - 50 * copies) + steps, 2)
    handle = tiny.varint(0) + tiny.varint(len(packed))
    table = tiny.finish(tiny.stored(packed, 1), tiny.block([(b"z", handle)]))
    with pytest.raises(CorruptFileError, match="expand"):
        read_table(table)


def test_an_index_that_google_wrote(shared: Path) -> None:
    """Names, shapes and values as TensorFlow's own reader returns them."""
    tf = pytest.importorskip("tensorflow")
    expected = tf.train.load_checkpoint(str(shared / MODULE))
    shapes = expected.get_variable_to_shape_map()
    with TensorBundle(shared / MODULE) as bundle:
        assert {name: list(info.shape) for name, info in bundle.variables.items()} == shapes
        assert len(shapes) == 21
        for name in shapes:
            found, value = bundle.read(name), expected.get_tensor(name)
            assert found.tobytes() == value.tobytes() if found.dtype != object else b"".join(found.flat) == value
