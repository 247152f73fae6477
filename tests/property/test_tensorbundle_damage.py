"""Damaged checkpoints: an error that names the fault, or the right values; never wrong values, never a hang."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.formats.leveldb_table import read_table
from converter.formats.protobuf import Message
from converter.formats.tensor_slices import WHOLE_AXIS, encode_slice_key
from converter.locate import open_checkpoint
from converter.readers.tensorflow.bundle_index import read_index
from converter.readers.tensorflow.tensorbundle import TensorBundle

DAMAGE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Values = dict[str, Any]


def values_of(prefix: Path) -> Values:
    with TensorBundle(prefix) as bundle:
        return {name: (info, bundle.read(name).tolist()) for name, info in bundle.variables.items()}


def write_whole(folder: Path) -> Path:
    """Numbers, strings and a partitioned variable; every byte of the data file belongs to one of them."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    strings, crc = tiny.encode_strings([b"some text", b"", b"more"])
    contents = [(b"double", 2, (2,), struct.pack("<2d", 0.5, -1.0), None), (b"texts", 7, (3,), strings, crc)]
    for row in range(2):
        key = encode_slice_key("rows", ((row, 1), (0, WHOLE_AXIS)))
        contents.append((key, 1, (1, 3), rows[row].tobytes(), None))
    records, data = {b"": tiny.header()}, b""
    for key, dtype, shape, content, checksum in contents:
        records[key] = tiny.entry(dtype, shape, content, offset=len(data), crc=checksum)
        data += content
    records[b"rows"] = tiny.sliced_entry(1, (2, 3), [((row, 1), None) for row in range(2)])
    (folder / "m.index").write_bytes(tiny.table(records, per_block=2))
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def data_of(prefix: Path) -> Path:
    return Path(f"{prefix}.data-00000-of-00001")


def flipped(whole: bytes) -> Iterator[bytes]:
    """Yield copies with one bit changed, for every bit."""
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def outcome(bundle: TensorBundle, name: str) -> Any:
    """Return the values of a variable, or the text of the error."""
    try:
        return bundle.read(name).tolist()
    except CorruptFileError as error:
        return str(error)


def test_every_bit_of_the_data_is_covered(tmp_path: Path) -> None:
    """The variable with the bit is refused, the others are unchanged."""
    prefix = write_whole(tmp_path)
    expected = {name: values for name, (_, values) in values_of(prefix).items()}
    assert len(expected) == 3
    for damaged in flipped(data_of(prefix).read_bytes()):
        data_of(prefix).write_bytes(damaged)
        with TensorBundle(prefix) as bundle:
            found = {name: outcome(bundle, name) for name in expected}
        (refused,) = (name for name in expected if found[name] != expected[name])
        assert f"data-00000-of-00001: {refused}: " in found[refused]


def test_every_bit_of_the_index_is_covered(tmp_path: Path) -> None:
    prefix, index = write_whole(tmp_path), tmp_path / "m.index"
    expected, unnoticed = values_of(prefix), 0
    for damaged in flipped(index.read_bytes()):
        try:
            read_index(damaged)
        except (CorruptFileError, UnsupportedSourceError):
            continue
        index.write_bytes(damaged)
        assert values_of(prefix) == expected
        unnoticed += 1
    assert unnoticed <= 1  # a number in the footer that is followed by a zero is still the same number


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    prefix = write_whole(tmp_path)
    for path in (tmp_path / "m.index", data_of(prefix)):
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            with pytest.raises(CorruptFileError):
                values_of(prefix)
        path.write_bytes(whole)
    assert len(values_of(prefix)) == 3


# Garbage with a right checksum passes the first line of defence and reaches the parsers.


@DAMAGE
@given(st.binary(max_size=200), st.binary(max_size=60))
def test_garbage_as_message_and_as_blocks(content: bytes, index: bytes) -> None:
    with suppress(CorruptFileError):
        Message(content)
    handle = tiny.varint(0) + tiny.varint(len(content))
    for table in (tiny.finish(tiny.stored(content), tiny.block([(b"z", handle)])), tiny.finish(b"", index)):
        with suppress(SourceError):
            read_table(table)


@DAMAGE
@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=40), max_size=4), st.binary(max_size=12))
def test_garbage_as_entries(records: dict[bytes, bytes], header: bytes) -> None:
    for first in (header, tiny.header()):
        with suppress(SourceError):
            read_index(tiny.table({**records, b"": first}))


@DAMAGE
@given(
    dtype=st.integers(-1, 40),
    shape=st.lists(st.integers(-2, 2**64 - 1) | st.integers(0, 4), max_size=5),
    place=st.tuples(*[st.integers(-2, 2**64 - 1) | st.integers(0, 40)] * 3),
    content=st.binary(max_size=40),
)
def test_garbage_as_numbers_of_an_entry(
    tmp_path: Path, dtype: int, shape: list[int], place: tuple[int, int, int], content: bytes
) -> None:
    """Huge and negative numbers with a right checksum: no overflow, no huge allocation, no read outside the file."""
    shard, offset, size = place
    record = tiny.number(1, dtype) + tiny.nested(2, b"".join(tiny.nested(2, tiny.number(1, axis)) for axis in shape))
    record += tiny.number(3, shard % 3 - 1) + tiny.number(4, offset) + tiny.number(5, size)
    inside = content[offset : offset + size] if offset >= 0 and size >= 0 else b""
    record += tiny.fixed32(6, tiny.masked(inside))
    (tmp_path / "m.index").write_bytes(tiny.table({b"": tiny.header(), b"x": record}))
    (tmp_path / "m.data-00000-of-00001").write_bytes(content)
    try:
        value = TensorBundle(tmp_path / "m").read("x")
    except SourceError:
        return
    assert value.shape == tuple(shape)
    assert dtype in (7, 14) or value.tobytes() == inside


@DAMAGE
@given(st.binary(max_size=300), st.sampled_from(["m", "m.index", "m.tar.gz", "m.h5", "m.pb", "checkpoint", "m.pth"]))
def test_garbage_as_file(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "fresh" / name
    path.parent.mkdir(exist_ok=True)
    for beginning in (b"", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b'model_checkpoint_path: "'):
        path.write_bytes(beginning + content)
        with pytest.raises(SourceError):
            open_checkpoint(path)
    path.unlink()
