"""FlatBuffers and FlexBuffers: values where the libraries wrote them, one error for everything that lies outside."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from flatbuffers import Builder, flexbuffers

from converter.errors import CorruptFileError
from converter.formats.flat import flatbuffer
from converter.formats.flat.flatbuffer import Buffer
from converter.formats.flat.flexbuffer import read_numbers

OPTIONS: dict[str, Any] = {
    "iou": 0.5,
    "most": 100,
    "score": float("-inf"),
    "regular": False,
    "name": "text",
    "big": 2**40,
}


def written(names: int = 3) -> bytes:
    """A table with a number, a text, a list of numbers and a list of tables that are one and the same."""
    builder = Builder(64)
    text = builder.CreateString("name")
    builder.StartObject(1)
    builder.PrependInt32Slot(0, 7, 0)
    inner = builder.EndObject()
    builder.StartVector(4, names, 4)
    for _ in range(names):
        builder.PrependUOffsetTRelative(inner)
    tables = builder.EndVector()
    builder.StartVector(4, 2, 4)
    for value in (5, 4):
        builder.PrependInt32(value)
    numbers = builder.EndVector()
    builder.StartObject(5)
    builder.PrependInt32Slot(0, 3, 0)
    for field, offset in enumerate((text, numbers, tables), start=1):
        builder.PrependUOffsetTRelativeSlot(field, offset, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def read(data: bytes) -> list[Any]:
    root = Buffer(memoryview(data)).root()
    tables = [table.integer(0, "<i") for table in root.tables(3)]
    return [root.integer(0, "<i"), root.text(1), root.numbers(2, "<i4").tolist(), tables, root.integer(9, "<i", 11)]


def is_refused(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except CorruptFileError:
        return True
    return False


def count_refused(read: Callable[[bytes], object], whole: bytes) -> int:
    """Put every byte of some at every place, and count what is refused; nothing else may happen."""
    places = ((place, value) for place in range(len(whole)) for value in (0, 1, 127, 255))
    return sum(is_refused(read, whole[:place] + bytes([value]) + whole[place + 1 :]) for place, value in places)


def test_values() -> None:
    assert read(written()) == [3, "name", [4, 5], [7, 7, 7], 11]


def test_every_byte_may_be_damaged() -> None:
    """Whatever a byte becomes, there is a value or one error."""
    whole = written()
    cut = sum(is_refused(read, whole[:place]) for place in range(len(whole)))
    assert count_refused(read, whole) + cut > len(whole)


def test_what_is_read_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tables that are one and the same cost no bytes in a file, but time."""
    monkeypatch.setattr(flatbuffer, "MAX_VALUES", 50)
    assert read(written(3))[3] == [7] * 3
    with pytest.raises(CorruptFileError, match="more than 50 values"):
        read(written(60))
    monkeypatch.setattr(flatbuffer, "MAX_TEXT_BYTES", 3)
    with pytest.raises(CorruptFileError, match="a name has 4 bytes; expected at most 3"):
        read(written(3))


def test_a_list_beyond_the_end() -> None:
    data = bytearray(written())
    place = data.index(struct.pack("<iii", 2, 4, 5))
    data[place : place + 4] = struct.pack("<i", 1 << 30)
    with pytest.raises(CorruptFileError, match="has 1073741824 items of 4 bytes, more than the file holds"):
        read(bytes(data))


def test_options() -> None:
    found = read_numbers(bytes(flexbuffers.Dumps(OPTIONS)))
    assert found == {name: value for name, value in OPTIONS.items() if name not in ("name",)}


@pytest.mark.parametrize("data", [b"", b"ab", bytes(flexbuffers.Dumps([1, 2])), bytes(flexbuffers.Dumps(7))])
def test_options_that_are_no_map(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match="options"):
        read_numbers(data)


def test_damaged_options() -> None:
    whole = bytes(flexbuffers.Dumps(OPTIONS))
    assert count_refused(read_numbers, whole) > len(whole) // 4
