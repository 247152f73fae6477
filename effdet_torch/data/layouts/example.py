"""The features of a tf.train.Example, from its bytes: a message of protocol buffers.

    Example  1: Features         map entry  1: name, 2: Feature
    Features 1: map entries      Feature    1: bytes, 2: floats, 3: integers; each a message with the values in 1

Source: TensorFlow's `feature.proto`; Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
FIXED_BYTES: Mapping[int, int] = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10
BYTES, FLOATS, INTEGERS = 1, 2, 3
# Kind of feature -> number and encoding of its values; numbers are packed, or each is a field.
VALUES = {
    BYTES: {(1, LENGTH_DELIMITED)},
    FLOATS: {(1, LENGTH_DELIMITED), (1, FIXED32)},
    INTEGERS: {(1, LENGTH_DELIMITED), (1, VARINT)},
}


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: which one.
        wire: how it is encoded.
        start, end: where its bytes are.
    """

    number: int
    wire: int
    start: int
    end: int


class Example:
    """The features of a record.

    Args:
        data: the bytes of the record.

    Raises:
        ValueError: They are not an Example.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._features: dict[str, Field] = {}
        for features in _messages(data, Field(0, LENGTH_DELIMITED, 0, len(data))):
            for entry in _messages(data, features):
                parts = {field.number: field for field in fields(data, entry.start, entry.end)}
                if {1, 2} <= parts.keys() and {parts[1].wire, parts[2].wire} == {LENGTH_DELIMITED}:
                    name = str(data[parts[1].start : parts[1].end], "utf-8", "replace")
                    self._features[name] = parts[2]

    @property
    def names(self) -> list[str]:
        """The names of the features."""
        return list(self._features)

    def places(self, name: str) -> list[slice]:
        """Return where the values of a feature of bytes are in the record; none if there is no such feature."""
        return [slice(value.start, value.end) for value in self._values(name, BYTES)]

    def texts(self, name: str) -> list[str]:
        """Return the values of a feature of bytes as text; bytes that are not UTF-8 are replaced."""
        return [str(self._data[place], "utf-8", "replace") for place in self.places(name)]

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return the values of a feature of floats, (N,)."""
        parts = [self._data[value.start : value.end] for value in self._values(name, FLOATS)]
        if any(len(part) % 4 for part in parts):
            raise ValueError(f"feature {name} is not a list of floats")
        return np.frombuffer(b"".join(parts), "<f4")

    def integers(self, name: str) -> list[int]:
        """Return the values of a feature of integers."""
        found: list[int] = []
        for value in self._values(name, INTEGERS):
            position = value.start
            while position < value.end:
                number, position = _varint(self._data, position, value.end)
                found.append(number if number < 1 << 63 else number - (1 << 64))
        return found

    def _values(self, name: str, kind: int) -> Iterator[Field]:
        if name in self._features:
            feature = self._features[name]
            for values in fields(self._data, feature.start, feature.end):
                if (values.number, values.wire) == (kind, LENGTH_DELIMITED):
                    yield from (
                        x for x in fields(self._data, values.start, values.end) if (x.number, x.wire) in VALUES[kind]
                    )


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two positions.

    Raises:
        ValueError: The bytes are not a message.
    """
    position = start
    while position < end:
        tag, position = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        first = position
        if wire == VARINT:
            _, last = _varint(data, position, end)
        elif wire == LENGTH_DELIMITED:
            size, first = _varint(data, position, end)
            last = first + size
        elif wire in FIXED_BYTES:
            last = first + FIXED_BYTES[wire]
        else:
            raise ValueError(f"byte {position} has the unknown wire type {wire}")
        if number == 0 or last > end:
            raise ValueError(f"the field at byte {position} does not fit into its message")
        yield Field(number, wire, first, last)
        position = last


def _messages(data: memoryview, message: Field) -> Iterator[Field]:
    """Yield the messages that field 1 of a message holds."""
    for field in fields(data, message.start, message.end):
        if (field.number, field.wire) == (1, LENGTH_DELIMITED):
            yield field


def _varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    """Return an unsigned number of up to 64 bits, and the position after it."""
    value = 0
    for count, byte in enumerate(data[position : min(end, position + MAX_VARINT_BYTES)]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80 and value < 1 << 64:
            return value, position + count + 1
    raise ValueError(f"the number at byte {position} does not end")
