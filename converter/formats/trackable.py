"""The graph of Python objects that TensorFlow 2 stores beside the values of a checkpoint.

Errors describe the fault in the bytes; the caller, who knows the file, adds its name.

Source: TensorFlow's `trackable_object_graph.proto`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from converter.errors import CorruptFileError
from converter.formats.protobuf import Message

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends the key of a variable
ROOT = 0


class Slot(NamedTuple):
    """A value that an optimizer keeps for a variable; both are numbers of objects."""

    variable: int
    name: str
    value: int


class Node(NamedTuple):
    """An object: the key and full name of its value, if it is a variable; its attributes, and its slots."""

    key: str
    full_name: str
    children: Mapping[str, int]
    slots: tuple[Slot, ...]


def read_nodes(graph: bytes) -> list[Node]:
    """Return all objects; the first is the root.

    Raises:
        CorruptFileError: The bytes are not such a graph, or an object refers to one that does not exist.
    """
    nodes = [_read_node(payload) for payload in Message(graph).payloads(1)]
    for node in nodes:
        for name, child in node.children.items():
            if not 0 <= child < len(nodes):
                raise CorruptFileError(f"attribute {name!r} refers to the object {child} of {len(nodes)}")
        for variable, name, value in node.slots:
            if not (0 <= variable < len(nodes) and 0 <= value < len(nodes)):
                raise CorruptFileError(f"slot {name!r} refers to the objects {variable} and {value} of {len(nodes)}")
    return nodes


def reachable(nodes: Sequence[Node], starts: Iterable[int], closed: Collection[int] = ()) -> set[int]:
    """Return the objects that can be reached from others by attributes, without entering the closed ones."""
    found: set[int] = set()
    waiting = [start for start in starts if start < len(nodes)]
    while waiting:
        place = waiting.pop()
        if place not in found and place not in closed:
            found.add(place)
            waiting.extend(nodes[place].children.values())
    return found


def local_name(path: str) -> str:
    """Return the last attribute of a path as Python knows it: "." and "/" are stored as ".." and ".S"."""
    return path.rsplit("/", 1)[-1].replace("..", "\0").replace(".S", "/").replace("\0", ".")


def _read_node(payload: bytes) -> Node:
    message = Message(payload)
    attributes = [Message(attribute) for attribute in message.payloads(2)]
    keys = [(_text(a.payload(3)), _text(a.payload(2))) for a in attributes]
    key, full_name = next((pair for pair in keys if pair[0].endswith(VALUE)), ("", ""))
    children = {_text(child.payload(2)): child.integer(1) for child in map(Message, message.payloads(1))}
    slots = (Message(slot) for slot in message.payloads(3))
    return Node(
        key,
        full_name,
        children,
        tuple(Slot(slot.integer(1), _text(slot.payload(2)), slot.integer(3)) for slot in slots),
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{data[:80]!r} in the object graph is not text") from error
