"""Indexes that contradict themselves, or that this reader does not know."""

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
        ({"dtype": 0}, "dtype has the number 0"),
        ({"dtype": -1}, "dtype has the number -1"),
        ({"shard": 1}, "data file 1 of 1"),
        ({"shard": -1}, "data file -1"),
        ({"offset": -8}, "byte -8"),
        ({"offset": 2**62}, "lies at byte"),
        ({"size": -8}, "has -8 bytes"),
        ({"shape": tiny.nested(2, tiny.number(1, -1))}, "not that of a tensor"),
        ({"shape": tiny.number(3, 1)}, "not that of a tensor"),
        ({"shape": tiny.nested(2, tiny.number(1, 2**40)) * 2}, "too large"),
        ({"shape": tiny.nested(2, tiny.number(1, 2**62)) + tiny.nested(2, b""), "size": 0}, "too large"),
        ({"shape": tiny.nested(2, tiny.number(1, 1)) * 255, "size": 4}, "not that of a tensor"),
        ({"shape": b"\x12\x09"}, "needs 9 bytes"),
    ],
)
def test_refuses_entries(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CorruptFileError, match=rf"m\.index: entry b'x': .*{text}"):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of(**changes)}, bytes(8)))


def test_the_unchanged_entry_is_fine(tmp_path: Path) -> None:
    """The negative control of the cases above."""
    assert TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of()}, bytes(8))).read("x").tolist() == [0, 0]


def test_refuses_variables_that_share_bytes(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="share byte 4 of data file 0"):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"x": entry_of(), b"y": entry_of(offset=4)}, bytes(12)))


def test_refuses_names_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="codec can't decode"):
        TensorBundle(tiny.write_records(tmp_path / "m", {b"\xffx": entry_of()}, bytes(8)))


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


def test_refuses_a_table_without_header(tmp_path: Path) -> None:
    Path(tmp_path / "m.index").write_bytes(tiny.table({b"x": entry_of()}))
    with pytest.raises(CorruptFileError, match="no bundle header"):
        TensorBundle(tmp_path / "m")


def test_refuses_a_huge_index_unread(tmp_path: Path) -> None:
    with Path(tmp_path / "m.index").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    with pytest.raises(CorruptFileError, match="an index has some"):
        TensorBundle(tmp_path / "m")
