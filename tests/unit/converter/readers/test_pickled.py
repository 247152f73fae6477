"""Pickles read without pickle: the same plain values, and nothing of what they ask for is done."""

from __future__ import annotations

import argparse
import collections
import copyreg
import decimal
import io
import os
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.errors import CorruptFileError
from converter.readers.pytorch.pickled import Call, Name, read_pickle

PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
VALUES: list[Any] = [
    None,
    [True, False],
    [0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31) - 1, 2**63, -(2**64), 2**2100, -(2**4000)],
    [0.0, -0.0, 0.1, -1e300, float("inf"), 5e-324],
    ["", "ü 漢字 \U0001f600", "a\nb\\c\t'\"", "\ud800", "x" * 300, "y" * 70000],
    [b"", b"\x00\xff\n", b"x" * 300, b"y" * 70000],
    [bytearray(), bytearray(b"\x00\xff")],
    [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))],
    [[], {}, set(), frozenset(), [[[]]], list(range(3000))],
    {"a": {"b": [1, {"c": ()}]}, 1: "int", 1.5: "float", None: 0, False: 1, b"k": b"v"},
    [{1, 2, 3}, frozenset({"a", "b"}), {i: i for i in range(2500)}],
    collections.OrderedDict([("z", 1), ("a", collections.OrderedDict(b=2))]),
    collections.OrderedDict(),
    collections.defaultdict(list, {"a": [1]}),
    collections.defaultdict(None, {"a": 2}),
    {"k": {frozenset({1}): "frozen key", (1, (2,)): "tuple", 2**70: "huge"}},
]


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data))


# Protocols that lack an opcode for a type write a call, which stands for it all the same.
BUILTINS: dict[str, Callable[..., Any]] = {
    "set": list,
    "frozenset": tuple,
    "bytearray": lambda *given: bytearray(*(g.encode("latin-1") if isinstance(g, str) else g for g in given[:1])),
    "bytes": bytes,
    "_codecs.encode": lambda text, encoding: text.encode(encoding),
    "tuple": lambda items: items,
    "int": lambda number: number,
}


def resolved(value: Any) -> Any:
    """Carry out a harmless call."""
    if not isinstance(value, Call):
        return value
    name = value.function.path.removeprefix("builtins.").removeprefix("__builtin__.")
    return BUILTINS[name](*map(resolved, value.arguments))


def same(found: Any, expected: Any) -> bool:
    """Equal in types and order as well; -0.0 is not 0.0, True is not 1. Sets have become lists and tuples."""
    found = resolved(found)
    if isinstance(expected, (set, frozenset)):
        return isinstance(found, list if isinstance(expected, set) else tuple) and (
            sorted(map(repr, map(resolved, found))) == sorted(map(repr, expected))
        )
    if isinstance(expected, dict):
        return type(found) is dict and same([*found.items()], [*expected.items()])
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and repr(found) == repr(expected)


@PROTOCOLS
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_plain_values_as_pickle_reads_them(number: int, protocol: int) -> None:
    data = pickle.dumps(VALUES[number], protocol)
    assert same(read(data), pickle.loads(data))
    assert same(read(pickletools.optimize(data)), VALUES[number])


def test_the_comparison_can_fail() -> None:
    for one, other in [
        (True, 1),
        (-0.0, 0.0),
        ([1], (1,)),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        (b"a", bytearray(b"a")),
        ({1}, {2}),
    ]:
        assert not same(read(pickle.dumps(one, 5)), other)
        assert same(read(pickle.dumps(one, 5)), one)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(SCALARS | st.tuples(SCALARS), inner),
        st.sets(SCALARS),
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_any_tree_as_pickle_reads_it(tree: Any, protocol: int) -> None:
    data = pickle.dumps(tree, protocol)
    assert same(read(data), pickle.loads(data))


@PROTOCOLS
def test_shared_and_cyclic_containers(protocol: int) -> None:
    shared: list[Any] = [1]
    cycle: dict[str, Any] = {"twice": (shared, shared)}
    cycle["self"] = cycle
    shared.append(shared)
    found = read(pickle.dumps(cycle, protocol))
    assert found["self"] is found
    assert found["twice"][0] is found["twice"][1]
    assert found["twice"][0][1] is found["twice"][0]
    assert found["twice"][0][0] == 1


# Objects are named, not made.


@dataclass
class Settings:
    rate: float = 0.1


class Subclass(dict[str, int]):
    """A dictionary of a class of its own."""


@PROTOCOLS
def test_objects_are_calls(protocol: int) -> None:
    objects = [argparse.Namespace(a=1), Settings(), decimal.Decimal("1.5"), os.path.join, Subclass(a=1)]
    found = read(pickle.dumps(objects, protocol))
    assert [type(value) for value in found] == [Call, Call, Call, Name, Call]
    assert found[3] == Name("posixpath.join")
    assert (found[2].function, found[2].arguments) == (Name("decimal.Decimal"), ("1.5",))
    if protocol >= 2:
        names = [found[number].function.path for number in (0, 1, 4)]
        assert names == ["argparse.Namespace", f"{__name__}.Settings", f"{__name__}.Subclass"]
        assert found[4].items == {"a": 1}


class Outside:
    """A value that another file holds."""


def test_what_is_outside_is_asked_for() -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("outside", 7) if isinstance(value, Outside) else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump([Outside()])
    assert read_pickle(io.BytesIO(stream.getvalue()), lambda identifier: identifier) == [("outside", 7)]
    with pytest.raises(CorruptFileError, match="outside of the pickle"):
        read(stream.getvalue())


def test_known_objects_are_made() -> None:
    data = pickle.dumps([decimal.Decimal("1.5"), argparse.Namespace()], 2)
    found = read_pickle(io.BytesIO(data), construct=lambda path, given: given[0] if path == "decimal.Decimal" else None)
    assert found[0] == "1.5"
    assert isinstance(found[1], Call)


def test_the_stream_stands_behind_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest")
    assert (read_pickle(stream), read_pickle(stream), stream.read()) == ([1], "two", b"rest")


# Pickles that would do something.


class Stateful:
    """Does harm when its state is set, as any class on the victim's machine might."""

    def __setstate__(self, state: str) -> None:
        Path(state).touch()


def line(text: str) -> bytes:
    return text.encode() + b"\n"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def attacks(target: str) -> dict[str, bytes]:
    """Opcodes that leave one value on the stack, and create a file on the way if they are obeyed."""
    command, state = short(f"touch {target}"), short(target)
    obeyed, me = b"cos\nsystem\n", line(__name__)
    return {
        "REDUCE": obeyed + command + b"\x85R",
        "STACK_GLOBAL": short("os") + short("system") + b"\x93" + command + b"\x85R",
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + obeyed + command + b"o",
        "NEWOBJ": b"c" + me + line("New") + state + b"\x85\x81",
        "NEWOBJ_EX": b"c" + me + line("New") + state + b"\x85}\x92",
        "BUILD": b"c" + me + line("Stateful") + b")\x81" + state + b"b",
        "EXT1": b"\x82\xf0" + command + b"\x85R",
        "EXT2": b"\x83\xf0\x00" + command + b"\x85R",
        "EXT4": b"\x84\xf0\x00\x00\x00" + command + b"\x85R",
        "eval": b"cbuiltins\neval\n" + short(f"__import__('os').system('touch {target}')") + b"\x85R",
    }


class New:
    def __new__(cls, target: str) -> New:
        Path(target).touch()
        return super().__new__(cls)


@pytest.mark.parametrize("kind", attacks(""))
def test_nothing_is_executed(tmp_path: Path, kind: str) -> None:
    """The negative control: the standard library does what it is told."""
    target = tmp_path / "harm"
    data = b"\x80\x04}(" + short("bad") + attacks(str(target))[kind] + short("good") + b"K\x07u."
    found = read(data)
    assert found["good"] == 7
    assert isinstance(found["bad"], Call)
    assert not target.exists()
    copyreg.add_extension("os", "system", 0xF0)
    try:
        pickle.loads(data)
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert target.exists()


@PROTOCOLS
def test_every_truncation(protocol: int) -> None:
    data = pickle.dumps([VALUES[5][:3], VALUES[9], VALUES[2], collections.OrderedDict(a=1), Settings()], protocol)
    for size in range(len(data)):
        with pytest.raises(CorruptFileError, match="not a readable pickle"):
            read(data[:size])
