"""Protocol-buffer wire format without generated classes: fields as (number, wire type, value), strictly bounded.

Errors say what is wrong with the bytes; the caller adds the name of the file.

Source: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from converter.errors import CorruptFileError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10
# A view avoids copies where a file has hundreds of megabytes.
Data = TypeVar("Data", bytes, memoryview)


def read_varint(data: bytes | memoryview, position: int, end: int) -> tuple[int, int]:
    """Read one base-128 number of up to 64 bits; return it, unsigned, and the position after it.

    Raises:
        CorruptFileError: The number does not end before `end`, or needs more than 64 bits.
    """
    value = 0
    for count, byte in enumerate(data[position : min(end, position + _MAX_VARINT_BYTES)]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + count + 1
    if position + _MAX_VARINT_BYTES > end:
        raise CorruptFileError(f"a number at byte {position} runs past the end of its data at byte {end}")
    raise CorruptFileError(f"a number at byte {position} has more than 64 bits")


def fields(message: Data) -> Iterator[tuple[int, int, int | Data]]:
    """Yield the fields of a message in file order as (number, wire type, value).

    A value is an unsigned int, or the bytes of a length-delimited field: a string, a packed list or a nested message.

    Raises:
        CorruptFileError: A field runs past the end, has the number 0, or a wire type that is no longer in use.
    """
    position, end = 0, len(message)
    while position < end:
        tag = message[position]
        if tag < 0x80:  # the usual case, spelled out because an index has tens of thousands of them
            position += 1
        else:
            tag, position = read_varint(message, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise CorruptFileError(f"a field at byte {position} has the number 0")
        if wire_type == VARINT:
            value, position = read_varint(message, position, end)
            yield number, wire_type, value
            continue
        if wire_type == LENGTH_DELIMITED:
            if position < end and (size := message[position]) < 0x80:  # the usual case again
                position += 1
            else:
                size, position = read_varint(message, position, end)
        elif wire_type in _FIXED_BYTES:
            size = _FIXED_BYTES[wire_type]
        else:
            raise CorruptFileError(f"field {number} has wire type {wire_type}; expected 0, 1, 2 or 5")
        if size > end - position:
            raise CorruptFileError(f"field {number} needs {size} bytes and {end - position} are left")
        payload = message[position : position + size]
        position += size
        yield number, wire_type, payload if wire_type == LENGTH_DELIMITED else int.from_bytes(payload, "little")


class Message(Generic[Data]):
    """A parsed message; fields that are absent, or have another wire type, have their default.

    As protocol buffers demand, the last of several values counts for a field that is not repeated.
    """

    __slots__ = ("_empty", "_integers", "_payloads")

    def __init__(self, data: Data) -> None:
        """Parse a message.

        Raises:
            CorruptFileError: The bytes are not a message.
        """
        self._integers: dict[tuple[int, int], int] = {}
        self._payloads: dict[int, list[Data]] = {}
        self._empty: Data = data[:0]
        for number, wire_type, value in fields(data):
            if isinstance(value, int):
                self._integers[number, wire_type] = value
            else:
                self._payloads.setdefault(number, []).append(value)

    def integer(self, number: int, default: int = 0) -> int:
        """Return a varint field as the signed 64-bit number that int32, int64, bool and enum fields hold."""
        value = self._integers.get((number, VARINT), default)
        return value if value < 1 << 63 else value - (1 << 64)

    def fixed32(self, number: int, default: int = 0) -> int:
        """Return a field of four bytes as an unsigned number."""
        return self._integers.get((number, FIXED32), default)

    def has_integer(self, number: int) -> bool:
        """Whether a varint field is present, even if it equals the default."""
        return (number, VARINT) in self._integers

    def payload(self, number: int) -> Data:
        """Return a string or nested message as bytes, empty if it is absent."""
        return self._payloads.get(number, [self._empty])[-1]

    def payloads(self, number: int) -> list[Data]:
        """Return all values of a repeated string or message field."""
        return self._payloads.get(number, [])


def text(payload: bytes | memoryview) -> str:
    """Return a string field; bytes that are not UTF-8 are replaced."""
    return str(payload, "utf-8", "replace")
