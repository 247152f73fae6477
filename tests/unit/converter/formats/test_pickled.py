"""Pickles as data: the values that pickle reads, nothing of what they ask for, and bounds on time and memory."""

from __future__ import annotations

import argparse
import copyreg
import decimal
import io
import os
import pickle
import pickletools
import struct
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from converter.errors import CorruptFileError
from converter.formats import pickled
from converter.formats.pickled import Call, Name, read_pickle

PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
PLAIN: list[Any] = [
    *(None, True, False, 0.0, -0.0, 0.1, -1e300, float("inf"), 5e-324),
    *(0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**63, -(2**64), 2**2100, -(2**4000)),
    *("", "ü 漢字 \U0001f600", "a\nb\\c\t'\"", "\ud800", "x" * 300, "y" * 70000),
    *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),)), [], {}, [[[]]], list(range(3000))),
    {"a": {"b": [1, {"c": ()}]}, 1: "int", 1.5: "float", None: 0, False: 1},
    {number: number for number in range(2500)},
]


def read(data: bytes, *functions: Any) -> Any:
    return read_pickle(io.BytesIO(data), *functions)


@PROTOCOLS
def test_plain_values_as_they_were_written(protocol: int) -> None:
    """`repr` also distinguishes types, the order of keys, -0.0 from 0.0, and True from 1."""
    for value in PLAIN:
        assert repr(read(pickle.dumps(value, protocol))) == repr(value)


def test_containers_that_only_late_protocols_have() -> None:
    values = [b"\x00", b"x" * 70000, bytearray(b"\x00"), {7}, frozenset({7}), OrderedDict(a=OrderedDict())]
    expected = [b"\x00", b"x" * 70000, bytearray(b"\x00"), [7], (7,), {"a": {}}]
    defaults = [defaultdict(list, a=[1]), defaultdict(None, a=1)]
    assert read(pickle.dumps(values + defaults, 5)) == [*expected, *defaults]


def test_operations_that_python_3_does_not_write() -> None:
    assert [read(data) for data in (b"S'\xe4\\n'\n.", b"U\x01\xe4.", b"T\x01\x00\x00\x00\xe4.")] == ["ä\n", "ä", "ä"]
    assert [read(data) for data in (b"(K\x01K\x02d.", b"(K\x01K\x02l.")] == [{1: 2}, [1, 2]]
    assert [read(data) for data in (b"K\x01K\x020.", b"K\x01(N1.", b"K\x012\x86.")] == [1, 1, (1, 1)]


def test_every_opcode_is_considered() -> None:
    refused = {opcode.name for opcode in pickletools.opcodes if ord(opcode.code) not in pickled._Reader.dispatch}
    assert refused == {"NEXT_BUFFER", "READONLY_BUFFER"}


@PROTOCOLS
def test_shared_and_cyclic_containers(protocol: int) -> None:
    cycle: list[Any] = [[]]
    cycle += [cycle[0], {"self": cycle}]
    found = read(pickle.dumps(cycle, protocol))
    assert found[0] is found[1]
    assert found[2]["self"] is found


# Objects are named, not created.


class Subclass(dict[str, int]):
    """Receives its items after it was created."""


class Outside:
    """Stored in another file."""


@PROTOCOLS
def test_objects_are_calls(protocol: int) -> None:
    found = read(pickle.dumps([argparse.Namespace(a=1), Subclass(a=1), decimal.Decimal("1.5"), os.path.join], protocol))
    assert [type(value) for value in found] == [Call, Call, Call, Name]
    assert (found[2].function, found[3]) == (Name("decimal.Decimal"), Name("posixpath.join"))
    assert found[2].arguments == ("1.5",)
    if protocol >= 2:
        assert [found[n].function.path for n in (0, 1)] == ["argparse.Namespace", f"{__name__}.Subclass"]


class Slotted:
    """Pickled as a pair: attributes, and what lies in slots."""

    __slots__ = ("__dict__", "b")


@PROTOCOLS
def test_objects_keep_their_attributes(protocol: int) -> None:
    cyclic = argparse.Namespace(a=1)
    cyclic.me = cyclic
    found = read(pickle.dumps([cyclic, decimal.Decimal("1.5"), argparse.Namespace()], protocol))
    assert found[0].attributes["a"] == 1
    assert found[0].attributes["me"] is found[0]
    assert [found[n].attributes for n in (1, 2)] == [{}, {}]
    if protocol >= 2:
        (both := Slotted()).a, both.b = 1, 2
        assert read(pickle.dumps(both, protocol)).attributes == {"a": 1}


def test_the_caller_supplies_what_it_knows() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("outside", 7) if isinstance(value, Outside) else None

    Pickler(stream := io.BytesIO(), 2).dump([Outside(), decimal.Decimal("1.5"), argparse.Namespace()])
    found = read(stream.getvalue(), lambda key: key, lambda path, _: {"decimal.Decimal": "made"}.get(path))
    assert found[:2] == [("outside", 7), "made"]
    assert isinstance(found[2], Call)
    with pytest.raises(CorruptFileError, match="unsupported persistent id"):
        read(stream.getvalue())


def test_the_stream_is_left_behind_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest")
    assert (read_pickle(stream), read_pickle(stream), stream.read()) == ([1], "two", b"rest")


# Pickles that would do something.


class Harmful:
    def __new__(cls, *targets: str) -> Harmful:
        for target in targets:
            Path(target).touch()
        return super().__new__(cls)

    def __setstate__(self, state: str) -> None:
        Path(state).touch()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def attacks(target: str) -> dict[str, bytes]:
    """Opcodes that leave one value on the stack, and create a file on the way if they are obeyed."""
    command, state = short(f"touch {target}"), short(target)
    obeyed, me = b"cos\nsystem\n", f"c{__name__}\n".encode()
    return {
        "REDUCE": obeyed + command + b"\x85R",
        "STACK_GLOBAL": short("os") + short("system") + b"\x93" + command + b"\x85R",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + obeyed + command + b"o",
        "NEWOBJ": me + b"Harmful\n" + state + b"\x85\x81",
        "NEWOBJ_EX": me + b"Harmful\n" + state + b"\x85}\x92",
        "BUILD": me + b"Harmful\n)\x81" + state + b"b",
        "EXT1": b"\x82\xf0" + command + b"\x85R",
        "EXT2": b"\x83\xf0\x00" + command + b"\x85R",
        "EXT4": b"\x84\xf0\x00\x00\x00" + command + b"\x85R",
    }


@pytest.mark.parametrize("kind", attacks(""))
def test_nothing_is_executed(tmp_path: Path, kind: str) -> None:
    """The negative control: the standard library obeys, and then keeps the function of the extension code."""
    target = tmp_path / "harm"
    data = b"\x80\x04}(" + short("bad") + attacks(str(target))[kind] + short("good") + b"K\x07u."
    copyreg.add_extension("os", "system", 0xF0)
    try:
        pickle.loads(data)
        assert target.exists()
        target.unlink()
        found = read(data)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert found["good"] == 7
    assert isinstance(found["bad"], Call)
    assert not target.exists()


# Damaged pickles, and some that no program would write.


@PROTOCOLS
def test_every_truncation(protocol: int) -> None:
    data = pickle.dumps([PLAIN[:27], PLAIN[-2], b"bytes", {1}, OrderedDict(a=1), Subclass(a=1)], protocol)
    for size in range(len(data)):
        with pytest.raises(CorruptFileError, match=r"not a readable pickle: \w+: ."):
            read(data[:size])


NESTED = b")" + b"2\x86" * 20  # a tuple that holds another one twice, which holds a third one twice, and so on
BROKEN: dict[str, bytes] = {
    "STOP on an empty stack": b".",
    "STOP on a mark": b"(.",
    "no mark": b"NNt.",
    "SETITEM on a list": b"]NNs.",
    "SETITEMS of an odd number": b"}(Nu.",
    "DICT of an odd number": b"(Nd.",
    "APPEND to a dictionary": b"}Na.",
    "an unhashable key": b"}]Ns.",
    "a call without arguments": b"ccollections\nOrderedDict\nNR.",
    "a memo entry that is missing": b"h\x05.",
    "a memo index of 61 bits": b"Np2305843009213693951\n.",
    "a buffer outside": b"\x97.",
    "BINBYTES of 4 GB": b"B" + b"\xff" * 4 + b"abc.",
    "BYTEARRAY8 of 64 MB": b"\x96" + struct.pack("<Q", 1 << 26) + b"abc.",
    "FRAME of 2**62 bytes": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "an opcode that does not exist": b"\xff.",
    "a number without digits": b"Iabc\n.",
    "a number of too many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "a name that is not text": NESTED + b"2\x93.",
    "a name of 1 MB": b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"2\x93.",
}
ODD: dict[str, bytes] = {
    "marks that nothing closes": b"(" * 100_000 + b"N.",
    "a memo index of 2**24": b"Nr\x00\x00\x00\x01.",
    "a deep tuple": b")" + b"\x85" * 100_000 + b".",
    "calls of calls": b"ca\nb\n" + b")R" * 100_000 + b".",
}


@contextmanager
def bounded(megabytes: int) -> Iterator[None]:
    """Fail if what is done inside takes more memory, or seconds."""
    tracemalloc.start()
    begin = time.perf_counter()
    yield
    seconds, peak_bytes = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 10  # minutes, without the limits
    assert peak_bytes < megabytes << 20


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_pickles_are_refused_at_once(kind: str) -> None:
    with bounded(megabytes=5), pytest.raises(CorruptFileError) as caught:
        read(BROKEN[kind])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ODD)
def test_odd_pickles_are_read_at_once(kind: str) -> None:
    with bounded(megabytes=30):
        read(ODD[kind])


@pytest.mark.parametrize("data", [b"}%sNs.", b"}(%sNu.", b"(%sNd."])
def test_keys_that_take_long_to_hash_are_replaced(data: bytes) -> None:
    for key in (NESTED, b"\x8a\x09" + b"\x01" * 9):
        assert [type(found) for found in read(data % key)] == [Call]


def test_arguments_are_not_copied() -> None:
    given: list[Any] = []
    read(b"(NNt\x94ca\nb\nh\x00Rca\nb\nh\x00\x81.", None, lambda _, arguments: given.append(arguments))
    assert given[0] is given[1]


def test_too_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled._Counted, "left", 100)
    assert len(read(b"](" + b"N" * 96 + b"e.")) == 96
    with pytest.raises(CorruptFileError, match="more than 2000000 operations"):
        read(b"](" + b"N" * 97 + b"e.")
