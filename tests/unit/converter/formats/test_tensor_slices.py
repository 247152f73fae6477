"""Partitioned variables: the keys of their slices, and slices that do not match."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support.tiny_bundle as tiny
from converter.errors import CorruptFileError
from converter.formats.tensor_slices import WHOLE_AXIS, encode_slice_key
from converter.readers.tensorflow.tensorbundle import TensorBundle
from converter.source import VariableInfo
from support.tiny_bundle import entry, sliced_entry

FLOAT = tiny.DTYPES["float32"]
PARTS = [((0, 2), None), ((2, 3), (0, 1)), ((2, 3), (1, 3))]
FULL = np.arange(20, dtype=np.float32).reshape(5, 4)
REGIONS = [FULL[0:2], FULL[2:5, 0:1], FULL[2:5, 1:4]]


def slice_key(name: str, axes: tuple[tuple[int, int] | None, ...]) -> bytes:
    return encode_slice_key(name, tuple(axis or (0, WHOLE_AXIS) for axis in axes))


def partitioned() -> tuple[dict[bytes, bytes], bytes]:
    records, data = {b"w": sliced_entry(FLOAT, FULL.shape, PARTS)}, b""
    for axes, region in zip(PARTS, REGIONS, strict=True):
        records[slice_key("w", axes)] = entry(FLOAT, region.shape, region.tobytes(), offset=len(data))
        data += region.tobytes()
    return records, data


def test_slices_are_assembled(tmp_path: Path) -> None:
    bundle = TensorBundle(tiny.write_records(tmp_path / "m", *partitioned()))
    assert bundle.variables == {"w": VariableInfo("float32", (5, 4))}
    assert bundle.read("w").tolist() == FULL.tolist()
    assert [path.name for path in bundle.files()] == ["m.index", "m.data-00000-of-00001"]


def test_slice_keys() -> None:
    """Ordered code by hand: 0, name, end of string, rank, then start and length per axis."""
    assert encode_slice_key("w", ((0, WHOLE_AXIS),)) == b"\x00w\x00\x01\x01\x01\x80\x7f"
    assert encode_slice_key("w", ((64, 300),)) == b"\x00w\x00\x01\x01\x01\xc0\x40\xc1\x2c"
    assert encode_slice_key("w", ((8192, 63),)) == b"\x00w\x00\x01\x01\x01\xe0\x20\x00\xbf"
    assert encode_slice_key("a\0", ()) == b"\x00a\x00\xff\x00\x01\x00"
    starts = [0, 1, 63, 64, 8191, 8192, 2**20, 2**40, 2**62, 2**63 - 1]
    keys = [encode_slice_key("w", ((start, WHOLE_AXIS),)) for start in starts]
    assert keys == sorted(keys)  # the purpose of ordered code


def test_slices_that_do_not_match_the_variable(tmp_path: Path) -> None:
    records, data = partitioned()
    key = slice_key("w", PARTS[1])
    for changed, words in (
        ({name: value for name, value in records.items() if name != key}, r"slice ((2, 3), (0, 1)) is None; expected"),
        ({name: value for name, value in records.items() if name != b"w"}, "does not belong to any variable"),
        ({**records, key: entry(3, [3, 1], data[32:44], offset=32)}, "int32"),
    ):
        with pytest.raises(CorruptFileError, match=re.escape(words)):
            TensorBundle(tiny.write_records(tmp_path / "m", changed, data))


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        ([((0, 2), None), ((2, 3), None), ((2, 3), None)], "is None"),  # the same slice twice
        ([((0, 2), None)], "do not add up"),
        (
            [((0, 2), None), ((1, 3), None)],
            "leave a part of the tensor empty",
        ),  # as many elements as the tensor, row 1 twice
        ([((0, 2), None), ((2, 4), None)], "exceeds an axis of size 5"),
        ([((-1, 2), None)], "exceeds an axis"),
        ([((0, -2), None)], "exceeds an axis"),
        ([((0, 2),)], "1 axes; the tensor has 2"),
    ],
)
def test_slices_that_do_not_tile_the_tensor(tmp_path: Path, axes: list[Any], text: str) -> None:
    records, data = {b"w": sliced_entry(FLOAT, FULL.shape, axes)}, b""
    for part in axes:
        if len(part) == 2 and part[0][1] > 0 and part[0][0] >= 0:
            values = np.zeros((part[0][1], 4), np.float32).tobytes()
            records[slice_key("w", part)] = entry(FLOAT, [part[0][1], 4], values, offset=len(data))
            data += values
    with pytest.raises(CorruptFileError, match=re.escape(text)):
        TensorBundle(tiny.write_records(tmp_path / "m", records, data)).read("w")
