"""Indexes that contradict themselves, or that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.readers.tensorflow.tensorbundle import TensorBundle

FLOAT = tiny.DTYPES["float32"]


def entry_of(**changes: int | bytes) -> bytes:
    """An entry of two floats, with some fields replaced."""
    values: dict[str, Any] = {"dtype": FLOAT, "shape": tiny.nested(2, tiny.number(1, 2)), "shard": 0, "offset": 0}
    values |= {"size": 8, "crc": tiny.masked(bytes(8)), **changes}
    return (
        tiny.number(1, values["dtype"])
        + tiny.nested(2, values["shape"])
        + b"".join(tiny.number(field, values[key]) for field, key in ((3, "shard"), (4, "offset"), (5, "size")))
        + tiny.fixed32(6, values["crc"])
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": 4}, r"4 bytes; float32 of shape \(2,\) needs 8"),
        ({"dtype": 2}, "float64 of shape"),
        ({"dtype": 0}, "dtype has the invalid number 0"),
        ({"dtype": -1}, "dtype has the invalid number -1"),
        ({"shard": 1}, "data file 1 of 1"),
        ({"shard": -1}, "data file -1"),
        ({"offset": -8}, "8 bytes at offset -8"),
        ({"offset": 2**62}, "at offset 4611686018427387904"),
        ({"size": -8}, "has -8 bytes"),
        ({"shape": tiny.nested(2, tiny.number(1, -1))}, "shape is not valid"),
        ({"shape": tiny.number(3, 1)}, "shape is not valid"),
        ({"shape": tiny.nested(2, tiny.number(1, 2**40)) * 2}, "too large"),
        ({"shape": tiny.nested(2, tiny.number(1, 2**62)) + tiny.nested(2, b""), "size": 0}, "too large"),
        ({"shape": tiny.nested(2, tiny.number(1, 1)) * 255, "size": 4}, "shape is not valid"),
        ({"shape": b"\x12\x09"}, "needs 9 bytes"),
    ],
)
def test_refuses_entries(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CorruptFileError, match=rf"m\.index: entry b'x': .*{text}"):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of(**changes)}, bytes(8)))


def test_the_unchanged_entry_is_valid(tmp_path: Path) -> None:
    """Negative control."""
    assert TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of()}, bytes(8))).read("x").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ({b"x": entry_of(), b"y": entry_of(offset=4)}, "share byte 4 of data file 0"),
        ({b"\xffx": entry_of()}, "codec can't decode"),
    ],
)
def test_refuses_entries_that_share_bytes_or_have_no_name(
    tmp_path: Path, records: dict[bytes, bytes], text: str
) -> None:
    with pytest.raises(CorruptFileError, match=text):
        TensorBundle(tiny.write_records(tmp_path / "m", records, bytes(12)))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"big_endian": True}, UnsupportedSourceError, "big-endian"),
        ({"min_consumer": 2}, UnsupportedSourceError, "version 2; this one knows 1"),
        ({"shards": 0}, CorruptFileError, "counts 0 data files"),
        ({"shards": -1}, CorruptFileError, "counts -1 data files"),
    ],
)
def test_refuses_headers(tmp_path: Path, options: dict[str, Any], error: type[SourceError], text: str) -> None:
    with pytest.raises(error, match=rf"m\.index: .*{text}"):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of()}, **options))


def test_refuses_a_table_without_header_and_a_huge_one(tmp_path: Path) -> None:
    path = tmp_path / "m.index"
    path.write_bytes(tiny.table({b"x": entry_of()}))
    with pytest.raises(CorruptFileError, match="no bundle header"):
        TensorBundle(tmp_path / "m")
    with path.open("wb") as file:
        file.truncate(1 << 40)  # uses no space on disk
    with pytest.raises(CorruptFileError, match="an index has about"):
        TensorBundle(tmp_path / "m")
