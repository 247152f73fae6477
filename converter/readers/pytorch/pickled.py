"""What a pickle says, without doing it: plain values, and a `Call` wherever the pickle would run something.

`pickle` executes what a file asks for. This reader knows no functions at all: the standard library's disassembler takes
the opcodes apart, and the few that build plain containers are followed on a stack. Nothing can be imported or called.

A container may hold another one twice, that a third one twice, and so on: to print, compare or hash it may take for
ever. Nothing here does, and what a stranger's pickle gives must not be printed either.

Source: the standard library's `pickletools`, which documents every opcode.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from converter.errors import CorruptFileError

MAX_OPCODES = 2_000_000  # of a checkpoint with 1500 tensors and the state of an optimizer: 300 000
MAX_NAME = 1000
_HASHED_BITS = 64  # of an integer that is a key


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names: "torch._utils._rebuild_tensor_v2"."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Call:
    """An object that the pickle would make by a call; `items` is what it would then put into it."""

    function: Any
    arguments: Any
    items: dict[Any, Any] | list[Any] | None = None


Persistent = Callable[[Any], Any]  # identifier of a value that lies outside of the pickle -> the value
Construct = Callable[[str, Any], Any]  # (path of a function, arguments) -> what it would make; None for a `Call`


def read_pickle(stream: IO[bytes], persistent: Persistent | None = None, construct: Construct | None = None) -> Any:
    """Read one pickle; the stream stands behind it afterwards.

    Args:
        stream: in memory, such as `io.BytesIO`: what it holds bounds the memory that is used.
        persistent: gives the values that lie outside; without it a pickle may have none.
        construct: makes the objects that the reader knows.

    Returns:
        None, booleans, numbers, strings, bytes, lists, tuples, dictionaries, sets as lists and frozen ones as tuples,
        `Name` and `Call`, and what the two functions give. Containers may hold themselves. A key of a dictionary that
        is a tuple or a huge number comes as a `Call`.

    Raises:
        CorruptFileError: The bytes are no pickle, or one that nobody would write.
    """
    # Plain errors of `persistent` and `construct`, which see what a file says, mean that it is damaged.
    machine = _Machine(persistent or _refuse_persistent, construct or _construct_nothing)
    try:
        for opcode, argument, _ in islice(pickletools.genops(stream), MAX_OPCODES):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.follow(opcode.name, argument)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, UnicodeError, ValueError) as error:
        raise CorruptFileError(f"not a readable pickle: {type(error).__name__}: {str(error)[:200]}") from error
    raise CorruptFileError(f"a pickle of more than {MAX_OPCODES} operations; no checkpoint has that many")


class _Machine:
    """The stack and the memo of a pickle; a mark begins a new stack, and the one below waits."""

    def __init__(self, persistent: Persistent, construct: Construct) -> None:
        self.persistent, self.construct = persistent, construct
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        else:
            _EFFECTS[name](self, argument)

    def take(self, count: int) -> list[Any]:
        """Take the uppermost values off."""
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def take_to_mark(self) -> list[Any]:
        """Take all values off down to the last mark, and the mark."""
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def pop(self) -> None:
        """Drop the uppermost value, or the mark."""
        if self.stack:
            self.stack.pop()
        else:
            self.take_to_mark()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def call(self, function: Any, arguments: Any) -> None:
        """Make an object: the plain container that it is, or a note of the call."""
        made = None
        if isinstance(function, Name):
            is_empty = function.path in _DICTIONARIES and len(arguments) <= _DICTIONARIES[function.path]
            made = {} if is_empty else self.construct(function.path, arguments)
        self.push(Call(function, arguments) if made is None else made)

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            target.items = target.items if isinstance(target.items, dict) else {}
            target = target.items
        target.update(zip(map(_key, flat[::2]), flat[1::2], strict=True))

    def push_dictionary(self, flat: list[Any]) -> None:
        self.push({})
        self.set_items(flat)

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            target.items = target.items if isinstance(target.items, list) else []
            target = target.items
        target.extend(values)


def _name(module: str, name: str) -> Name:
    if len(module) + len(name) > MAX_NAME:
        raise ValueError("a class or function with an endless name")
    return Name(".".join((module, name)))  # which takes nothing but texts


def _key(value: Any) -> Any:
    """Return a key that is hashed at once, and differs from most others."""
    if isinstance(value, tuple) or (isinstance(value, int) and value.bit_length() > _HASHED_BITS):
        return Call(Name(f"builtins.{type(value).__name__}"), (value,))
    return value


def _refuse_persistent(identifier: Any) -> Any:
    raise ValueError("a value outside of the pickle")


def _construct_nothing(path: str, arguments: Any) -> Any:
    return None


# Dictionaries whose items follow the call, and how many other arguments they take: the factory of default values.
_DICTIONARIES = {"collections.OrderedDict": 0, "collections.defaultdict": 1}
_EFFECTS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.take_to_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "DICT": lambda m, _: m.push_dictionary(m.take_to_mark()),
    "LIST": lambda m, _: m.push(m.take_to_mark()),
    "FROZENSET": lambda m, _: m.push(tuple(m.take_to_mark())),
    "TUPLE": lambda m, _: m.push(tuple(m.take_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "SETITEM": lambda m, _: m.set_items(m.take(2)),
    "SETITEMS": lambda m, _: m.set_items(m.take_to_mark()),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.take_to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.take_to_mark()),
    "PUT": lambda m, key: m.put(key),
    "BINPUT": lambda m, key: m.put(key),
    "LONG_BINPUT": lambda m, key: m.put(key),
    "MEMOIZE": lambda m, _: m.put(None),
    "GET": lambda m, key: m.push(m.memo[key]),
    "BINGET": lambda m, key: m.push(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.push(m.memo[key]),
    "GLOBAL": lambda m, pair: m.push(_name(*pair.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.push(_name(*m.take(2))),
    "EXT1": lambda m, code: m.push(Name(f"extension {code}")),
    "EXT2": lambda m, code: m.push(Name(f"extension {code}")),
    "EXT4": lambda m, code: m.push(Name(f"extension {code}")),
    "REDUCE": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ": lambda m, _: m.call(*m.take(2)),
    "NEWOBJ_EX": lambda m, _: m.call(*m.take(3)[:2]),
    "OBJ": lambda m, _: m.call((made := m.take_to_mark())[0], tuple(made[1:])),
    "INST": lambda m, pair: m.call(_name(*pair.split(" ", 1)), tuple(m.take_to_mark())),
    "BUILD": lambda m, _: m.take(1),  # attributes of an object, which a plain value has not
    "PERSID": lambda m, text: m.push(m.persistent(text)),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.take(1)[0])),
}
# The opcodes that are followed by a number or a text, which is their value.
_LITERALS = frozenset(
    opcode.name for opcode in pickletools.opcodes if opcode.arg and opcode.stack_after and opcode.name not in _EFFECTS
)
