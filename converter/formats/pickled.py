"""Pickles as data: plain values, and a `Call` wherever the pickle would run something.

Nothing is imported or called, and the size of a pickle bounds the time and memory that it takes.

A container may hold another one twice, which holds a third one twice, and so on: printing, comparing or hashing it may
never end. Nothing here does that, and callers must not print what a stranger's pickle holds.

Source: the standard library's `pickle`, and `pickletools`, which documents every opcode.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from converter.errors import CorruptFileError

MAX_OPCODES = 2_000_000  # a checkpoint with 1500 tensors and the state of an optimizer has 300 000
MAX_NAME = 1000
# Dictionaries whose items follow the call, and how many arguments they may have: the factory of default values.
_DICTIONARIES = {"collections.OrderedDict": 0, "collections.defaultdict": 1}
_DAMAGE = (AttributeError, EOFError, LookupError, OverflowError, TypeError, ValueError)

Persistent = Callable[[Any], Any]  # identifier of a value stored outside the pickle -> the value
Construct = Callable[[str, Any], Any]  # (path of a function, arguments) -> what it would create; None for a `Call`


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names: "torch._utils._rebuild_tensor_v2"."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Call:
    """An object that the pickle would create by calling a function; items that it would then put into it are dropped.

    Attributes:
        function: what would be called.
        arguments: what it would be called with; keyword arguments are dropped.
        state: what the object would restore itself from, usually its attributes; None if there is nothing.
    """

    function: Any
    arguments: Any = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The attributes by their names; {} if the state is not what an ordinary object has."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state  # (attributes, slots)
        return state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop an item."""

    def extend(self, values: Any) -> None:
        """Drop values."""

    append = extend


def read_pickle(stream: IO[bytes], persistent: Persistent | None = None, construct: Construct | None = None) -> Any:
    """Read one pickle and leave the stream right behind it.

    Args:
        stream: in memory, such as `io.BytesIO`: its size bounds the memory that is used.
        persistent: returns the values stored outside the pickle; without it there may be none.
        construct: creates the objects that the caller knows.

    Returns:
        None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, sets as lists and frozen sets as tuples,
        `Name` and `Call`, and what the two functions return. Containers may contain themselves. A dictionary key that
        is a tuple or a huge number becomes a `Call`.

    Raises:
        CorruptFileError: The bytes are not a pickle, or not one that any program would write.
    """
    try:
        return _Reader(stream, persistent, construct).load()
    except (*_DAMAGE, pickle.UnpicklingError, struct.error) as error:  # or the two functions reject what the file says
        problem = str(error)[:200] or "it is cut off"
        raise CorruptFileError(f"not a readable pickle: {type(error).__name__}: {problem}") from error


class _Dictionary(dict[Any, Any]):
    """A dictionary without keys that take long to hash, or of which many can have the same hash."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, tuple) or (isinstance(key, int) and key.bit_length() > 64):
            key = Call(Name(f"builtins.{type(key).__name__}"))
        super().__setitem__(key, value)


class _Counted(dict[int, Any]):
    """Operations by opcode, which can be looked up `MAX_OPCODES` times."""

    left = MAX_OPCODES

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise CorruptFileError(f"a pickle of more than {MAX_OPCODES} operations; no checkpoint has that many")
        return dict.__getitem__(self, opcode)


_OPERATIONS = pickle._Unpickler.dispatch
# Those that only build plain values, from no more than the file has bytes for.
_KEPT = """PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    LIST EMPTY_LIST TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS
    GLOBAL STACK_GLOBAL EXT1 EXT2 EXT4 INST OBJ PERSID BINPERSID"""


class _Reader(pickle._Unpickler):
    """Python's unpickler without the operations that could run something, never end, or exhaust the memory.

    This is the class in pure Python. Its name is private, but has been the same since Python 3.4; operations that later
    versions may add are refused. The public one is written in C: none of its operations can be replaced, and its memo
    is an array whose length the file decides.
    """

    def __init__(self: Any, stream: IO[bytes], persistent: Persistent | None, construct: Construct | None) -> None:
        pickle._Unpickler.__init__(self, stream, encoding="latin-1")  # which reads every string of Python 2
        self.persistent_load = persistent or self.persistent_load
        self.construct = construct or (lambda path, arguments: None)
        self.dispatch = _Counted(self.dispatch)

    def find_class(self, module: str, name: str) -> Name:
        if len(module) + len(name) > MAX_NAME:
            raise ValueError("a class or function with an endless name")
        return Name(f"{module}.{name}")

    def get_extension(self: Any, code: int) -> None:
        self.append(Name(f"extension {code}"))  # the registry of this process may hold functions

    def _instantiate(self: Any, function: Any, arguments: Any) -> None:
        """Push an empty dictionary, an object that the caller knows, or a note of the call."""
        made = None
        if isinstance(function, Name):
            is_empty = len(arguments) <= _DICTIONARIES.get(function.path, -1)
            made = _Dictionary() if is_empty else self.construct(function.path, arguments)
        self.append(Call(function, arguments) if made is None else made)

    def load_reduce(self: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._instantiate(function, arguments)  # without copying what many calls may share

    def load_dict(self: Any) -> None:
        flat = self.pop_mark()
        self.append(_Dictionary())
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            self.stack[-1][key] = value

    def load_put(self: Any) -> None:
        index = int(self.readline())
        if index.bit_length() > 32:  # such numbers may all have the same hash
            raise ValueError("an impossible index of the memo")
        self.memo[index] = self.stack[-1]

    def load_build(self: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state  # kept as it is: nothing is set or called

    dispatch: ClassVar[dict[int, Any]] = {
        **{opcode: _OPERATIONS[opcode] for opcode in (getattr(pickle, name)[0] for name in _KEPT.split())},
        pickle.PUT[0]: load_put,
        # Python's own allocates as many bytes as the file claims, before it reads them.
        pickle.BYTEARRAY8[0]: lambda self: self.append(bytearray(self.read(int.from_bytes(self.read(8), "little")))),
        pickle.EMPTY_DICT[0]: lambda self: self.append(_Dictionary()),
        pickle.DICT[0]: load_dict,
        # Sets would hash their values.
        pickle.EMPTY_SET[0]: _OPERATIONS[pickle.EMPTY_LIST[0]],
        pickle.ADDITEMS[0]: _OPERATIONS[pickle.APPENDS[0]],
        pickle.FROZENSET[0]: _OPERATIONS[pickle.TUPLE[0]],
        # Whatever would be called is not; keyword arguments are dropped.
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: lambda self: (self.stack.pop(), self.load_reduce()),
        pickle.BUILD[0]: load_build,
    }
