"""The wire-format reader: what it reads, and that nothing runs past its end."""

from __future__ import annotations

import pytest

from converter.errors import CorruptFileError
from converter.formats.protobuf import FIXED32, FIXED64, LENGTH_DELIMITED, VARINT, Message, fields, read_varint
from support.tiny_bundle import fixed32, nested, number, varint


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32 - 1, 2**63, 2**64 - 1])
def test_varint_round_trip(value: int) -> None:
    data = b"\xff" + varint(value) + b"\xff"
    assert read_varint(data, 1, len(data)) == (value, len(data) - 1)


@pytest.mark.parametrize(
    ("data", "end", "text"),
    [
        (b"", 0, "runs past the end"),
        (b"\x81\x01", 1, "runs past the end"),
        (b"\xff" * 9, 9, "runs past the end"),
        (b"\xff" * 10 + b"\x01", 11, "more than 64 bits"),
        (b"\xff" * 9 + b"\x02", 10, "more than 64 bits"),
    ],
)
def test_varint_refuses(data: bytes, end: int, text: str) -> None:
    with pytest.raises(CorruptFileError, match=text):
        read_varint(data, 0, end)


def test_fields_in_file_order() -> None:
    data = number(3, 7) + nested(1, b"abc") + fixed32(6, 5) + b"\x11" + bytes([9]) + bytes(7) + number(3, 8)
    assert list(fields(data)) == [
        (3, VARINT, 7),
        (1, LENGTH_DELIMITED, b"abc"),
        (6, FIXED32, 5),
        (2, FIXED64, 9),
        (3, VARINT, 8),
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x00\x01", "number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0f", "wire type 7"),
        (b"\x0a\x05abcd", "needs 5 bytes and 4 are left"),
        (b"\x0a" + varint(2**63), "are left"),
        (b"\x0d\x01\x02\x03", "needs 4 bytes and 3 are left"),
        (b"\x09\x01", "needs 8 bytes"),
        (b"\x08", "runs past the end"),
        (b"\x80", "runs past the end"),
    ],
)
def test_fields_refuses(data: bytes, text: str) -> None:
    with pytest.raises(CorruptFileError, match=text):
        list(fields(data))


def test_message_reads_fields_by_kind() -> None:
    message = Message(number(1, 4) + number(1, -5) + nested(2, b"x") + nested(2, b"y") + fixed32(6, 2**32 - 1))
    assert (message.integer(1), message.has_integer(1)) == (-5, True)  # the last one counts
    assert (message.payload(2), message.payloads(2), message.fixed32(6)) == (b"y", [b"x", b"y"], 2**32 - 1)
    # Absent fields, and fields of another wire type, have their default.
    assert (message.integer(2), message.integer(6), message.integer(9, 7), message.has_integer(6)) == (0, 0, 7, False)
    assert (message.payload(1), message.payloads(1), message.fixed32(1)) == (b"", [], 0)
