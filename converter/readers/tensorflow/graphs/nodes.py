"""The operations of a graph, those of its function library included: name, type, inputs; attributes on demand.

Only what can show something of the network is kept: nodes of its scopes, and the few other types that stand between it
and the images. Names are understood as the official code gives them, behind any prefix.

Errors describe the fault in the bytes; the caller, who knows the file, adds its name.

Source: TensorFlow's `graph.proto`, `node_def.proto`, `function.proto`, `op_def.proto`, `attr_value.proto`,
`tensor_shape.proto`, `meta_graph.proto`, `saved_model.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from converter.formats.protobuf import Message, fields, text

# Where GraphDefs lie in a message: the numbers of the fields that lead to them.
GRAPH_DEF, META_GRAPH_DEF, SAVED_MODEL = (), (2,), (2, 2)

_NODE, _LIBRARY = 1, 2  # of a GraphDef
_FUNCTION = 1  # of a FunctionDefLibrary
_SIGNATURE, _FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 1, 3, 5  # of a FunctionDef
_ARGUMENT = 2  # of a function's signature
_NAME, _OPERATION, _INPUT, _ATTRIBUTE = 1, 2, 3, 5  # of a NodeDef
_KEY, _VALUE = 1, 2  # of an attribute
_SHAPE, _LIST, _TENSOR = 7, 1, 8  # of an AttrValue
_LISTED_SHAPE, _TENSOR_SHAPE = 7, 2  # of its list, of a TensorProto
_AXIS, _SIZE = 2, 1  # of a TensorShapeProto
_INPUT_SHAPES = "_input_shapes"  # attribute of a function

# Keras numbers what has no name of its own (the stem), and TensorFlow 1 what is built a second time.
_PLACE = re.compile(r"(?:^|/)((?:class|box)_net|fpn_cells|resample_p\d+|stem)(?:_\d+)?/(.+)")
_TRAINING = re.compile(r"(?:^|/)(?:grad|update_)")  # gradients/..., gradient_tape/..., Momentum/update_...
_AROUND = {"Placeholder", "IteratorGetNext", "Identity", "IdentityN", "Cast", "Transpose", "Const"}

Shape = tuple[int, ...]  # an unknown size is -1


class Node(NamedTuple):
    """An operation.

    Attributes:
        place: its name without the prefix, in parts: ("class_net", "class-0", "BiasAdd"); empty outside the network.
        operation: its type.
        inputs: "node", "node:1" or in functions "node:output:1"; "^node" is a control input.
        message: its NodeDef.
    """

    place: tuple[str, ...]
    operation: str
    inputs: tuple[str, ...]
    message: memoryview


class Graph(NamedTuple):
    """The nodes of a graph or of one function by name, and the shapes of the function's arguments, where known."""

    nodes: dict[str, Node]
    arguments: dict[str, Shape]


def read_graphs(data: memoryview, container: tuple[int, ...] = GRAPH_DEF) -> Iterator[Graph]:
    """Yield every graph and every function.

    Args:
        data: a GraphDef, MetaGraphDef or SavedModel.
        container: which of them.

    Raises:
        CorruptFileError: The bytes are something else, or damaged.
    """
    if container:
        for number, _, payload in fields(data):
            if number == container[0] and not isinstance(payload, int):
                yield from read_graphs(payload, container[1:])
        return
    nodes: dict[str, Node] = {}
    functions: list[memoryview] = []
    for number, _, payload in fields(data):
        if isinstance(payload, int):
            continue
        if number == _NODE:
            _add(nodes, payload)
        elif number == _LIBRARY:
            functions += Message(payload).payloads(_FUNCTION)
    yield Graph(nodes, {})
    yield from map(_read_function, functions)


def attribute(message: memoryview, name: str) -> Message[memoryview]:
    """Return an attribute of a NodeDef; empty if it has none of this name."""
    return _attribute(Message(message).payloads(_ATTRIBUTE), name)


def shapes(value: Message[memoryview]) -> list[Shape]:
    """Return the shapes that an attribute holds: one, a list, or that of a tensor."""
    found = value.payloads(_SHAPE) or Message(value.payload(_LIST)).payloads(_LISTED_SHAPE)
    found = found or [Message(tensor).payload(_TENSOR_SHAPE) for tensor in value.payloads(_TENSOR)]
    return [tuple(Message(axis).integer(_SIZE) for axis in Message(shape).payloads(_AXIS)) for shape in found]


def _read_function(function: memoryview) -> Graph:
    nodes: dict[str, Node] = {}
    attributes: list[memoryview] = []
    arguments: list[str] = []
    for number, _, payload in fields(function):
        if isinstance(payload, int):
            continue
        if number == _FUNCTION_NODE:
            _add(nodes, payload)
        elif number == _FUNCTION_ATTRIBUTE:
            attributes.append(payload)
        elif number == _SIGNATURE:
            arguments = [text(Message(each).payload(_NAME)) for each in Message(payload).payloads(_ARGUMENT)]
    known = shapes(_attribute(attributes, _INPUT_SHAPES))
    return Graph(nodes, dict(zip(arguments, known, strict=True)) if len(known) == len(arguments) else {})


def _add(nodes: dict[str, Node], message: memoryview) -> None:
    """Add a node if it can show something; its attributes, which come last, are not parsed."""
    name = operation = ""
    place: tuple[str, ...] = ()
    inputs: list[str] = []
    for number, _, payload in fields(message):
        if number > _INPUT or isinstance(payload, int):
            break
        if number == _INPUT:
            inputs.append(text(payload))
        elif number == _NAME:
            name = text(payload)
            if found := _PLACE.search(name):
                place = () if _TRAINING.search(name) else (found[1], *found[2].split("/"))
        else:
            operation = text(payload)
            if not place and operation not in _AROUND:
                return
    nodes[name] = Node(place, operation, tuple(inputs), message)


def _attribute(attributes: list[memoryview], name: str) -> Message[memoryview]:
    pairs = (Message(pair) for pair in attributes)
    values = [pair.payload(_VALUE) for pair in pairs if bytes(pair.payload(_KEY)) == name.encode()]
    return Message(values[-1] if values else memoryview(b""))
