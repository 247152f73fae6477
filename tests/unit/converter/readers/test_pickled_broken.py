"""Pickles that nobody would write: refused or read at once, in little memory."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from converter.errors import CorruptFileError
from converter.readers.pytorch import pickled
from converter.readers.pytorch.pickled import read_pickle


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data))


NESTED = b")" + b"2\x86" * 60  # a tuple that holds itself twice, 60 times over: it would never be hashed or printed
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "STOP on an empty stack": b".",
    "STOP on a mark": b"(.",
    "POP of an empty stack": b"0.",
    "below a mark": b"N(\x85.",
    "DUP of an empty stack": b"2.",
    "no mark": b"NNt.",
    "SETITEM on a list": b"]NNs.",
    "SETITEMS of an odd number": b"}(Nu.",
    "APPEND to a dictionary": b"}Na.",
    "an unhashable key": b"}]Ns.",
    "a memo entry that is not there": b"h\x05.",
    "a storage that is not there": b"NQ.",
    "BINBYTES8 of 2**62 bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "BINBYTES8 of 2**64 - 1 bytes": b"\x8e" + b"\xff" * 8 + b"abc.",
    "BINUNICODE8 of 2**62 bytes": b"\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "BYTEARRAY8 of 2**62 bytes": b"\x96" + struct.pack("<Q", 2**62) + b"abc.",
    "BINBYTES of 4 GB": b"B" + b"\xff" * 4 + b"abc.",
    "LONG4 of negative length": b"\x8b" + b"\xff" * 4 + b"abc.",
    "an opcode that does not exist": b"\xff.",
    "a buffer outside": b"\x97.",
    "text that is no text": b"\x8c\x01\xff.",
    "a number that is none": b"Iabc\n.",
    "a number of too many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "a name that is no text": NESTED + b"2\x93.",
    "a name of 20 MB": b"\x8d" + struct.pack("<Q", 10 << 20) + b"x" * (10 << 20) + b"2" * 3 + b"\x93" * 2 + b".",
    "a dictionary of nothing": b"ccollections\nOrderedDict\nNR.",
}
CALLED = b"cos\nsystem\nq\x010)"  # a function into the memo, and an empty tuple
HUGE = b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20)  # a number of a megabyte
ODD: dict[str, bytes] = {
    "MARK never closed": b"(" * 100_000 + b"N.",
    "a memo index of 2**32 - 1": b"Nr\xff\xff\xff\xffN.",
    "many DUPs": b"N" + b"2" * 200_000 + b".",
    "nested tuples as a key": b"}" + NESTED + b"Ns.",
    "nested tuples as a key, in an object": b"cos\nsystem\n)R" + NESTED + b"Ns.",
    "a huge number as many keys": b"}(" + HUGE + b"q\x01N" + b"h\x01N" * 25_000 + b"u.",
    "a deep tuple": b")" + b"\x85" * 100_000 + b".",
    "a deep object": CALLED + b"q\x020h\x01h\x02R\x85" * 25_000 + b".",
}


def measured(data: bytes, *expected: type[Exception]) -> tuple[float, int]:
    """Return the seconds and the bytes that it takes to read a pickle."""
    tracemalloc.start()
    begin = time.perf_counter()
    with suppress(*expected):
        read(data)
    seconds, peak_bytes = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak_bytes


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pickles_are_refused_at_once(kind: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        read(b"\x80\x04" + BROKEN[kind])
    assert len(str(caught.value)) < 300
    seconds, peak_bytes = measured(BROKEN[kind], CorruptFileError)
    assert seconds < 2
    assert peak_bytes < 3 * len(BROKEN[kind]) + (1 << 20)


@pytest.mark.parametrize("kind", ODD)
def test_odd_pickles_are_read_at_once(kind: str) -> None:
    seconds, peak_bytes = measured(ODD[kind])
    assert seconds < 3
    assert peak_bytes < 200 << 20


def test_what_is_built_can_never_be_printed_by_accident() -> None:
    assert len(repr(read(b"cos\nsystem\n" + NESTED + b"R."))) < 100


def test_too_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_OPCODES", 100)
    assert len(read(b"](" + b"N" * 96 + b"e.")) == 96
    with pytest.raises(CorruptFileError, match="more than 100 operations"):
        read(b"](" + b"N" * 97 + b"e.")
