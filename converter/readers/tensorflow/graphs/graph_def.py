"""The constants of a GraphDef, TensorFlow's description of a graph.

Errors describe the fault in the bytes; the caller, who knows the file, adds its name.

Source: TensorFlow's `graph.proto`, `node_def.proto`, `attr_value.proto`, `tensor.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.protobuf import Message, fields, text
from converter.readers.tensorflow.bundle_index import describe_tensor
from converter.readers.tensorflow.tensorbundle import decode_values
from converter.source import VariableInfo

_NODE = 1  # of a GraphDef
_NAME, _OPERATION, _ATTRIBUTE = 1, 2, 5  # of a NodeDef
_KEY, _VALUE = 1, 2  # of an attribute
_TENSOR = 8  # of an AttrValue
_DTYPE, _SHAPE, _CONTENT = 1, 2, 4  # of a TensorProto
_LISTS = {"float32": (5, "<f4"), "float64": (6, "<f8")}  # field of a TensorProto that lists values, their layout
_MAX_LISTED_BYTES = 1 << 26  # a list of one value may expand to many: far more than any variable has


class Constant(NamedTuple):
    """A constant: dtype and shape, and the TensorProto with its values."""

    info: VariableInfo
    tensor: Message[memoryview]


class GraphParts(NamedTuple):
    """The constants of a graph by name, and the types of its operations."""

    constants: dict[str, Constant]
    operations: set[str]


def read_graph(graph: memoryview, is_wanted: Callable[[str], bool]) -> GraphParts:
    """Parse a GraphDef.

    Args:
        graph: its bytes.
        is_wanted: whether to return a constant, by its name.

    Raises:
        CorruptFileError: The bytes are not a GraphDef.
    """
    parts = GraphParts({}, set())
    for number, _, payload in fields(graph):
        if number != _NODE or isinstance(payload, int):
            continue
        node = Message(payload)
        name, operation = (text(node.payload(part)) for part in (_NAME, _OPERATION))
        parts.operations.add(operation)
        if operation == "Const" and is_wanted(name):
            if name in parts.constants:
                raise CorruptFileError(f"two constants are called {name!r}")
            parts.constants[name] = read_constant(node, name)
    return parts


def read_constant(node: Message[memoryview], name: str) -> Constant:
    """Return the constant of a NodeDef.

    Raises:
        CorruptFileError: It has no value, or its dtype or shape is invalid.
    """
    attributes = (Message(attribute) for attribute in node.payloads(_ATTRIBUTE))
    values = [Message(a.payload(_VALUE)).payload(_TENSOR) for a in attributes if text(a.payload(_KEY)) == "value"]
    if not values:
        raise CorruptFileError(f"the constant {name!r} has no value")
    tensor = Message(values[-1])
    try:
        info, _ = describe_tensor(tensor.integer(_DTYPE), bytes(tensor.payload(_SHAPE)))
    except CorruptFileError as error:
        raise CorruptFileError(f"{name}: {error}") from error
    return Constant(info, tensor)


def decode_constant(constant: Constant) -> NDArray[Any]:
    """Return the values of a constant: stored as bytes, or as a list whose last value is repeated to fill the shape.

    Raises:
        CorruptFileError: There are too many or too few values.
        UnsupportedSourceError: They are not numbers, or listed in an unusual dtype.
    """
    info, tensor = constant
    content, count = tensor.payload(_CONTENT), math.prod(info.shape)
    _, size_needed = describe_tensor(tensor.integer(_DTYPE), bytes(tensor.payload(_SHAPE)))
    if content:
        if size_needed not in (None, len(content)):
            raise CorruptFileError(f"it has {len(content)} bytes; {info.dtype} of {info.shape} needs {size_needed}")
        return decode_values(content, info)
    if info.dtype not in _LISTS:
        raise UnsupportedSourceError(f"listed values of dtype {info.dtype} cannot be read; expected bytes")
    field, dtype = _LISTS[info.dtype]
    listed = tensor.payload(field)
    if len(listed) % np.dtype(dtype).itemsize or (size_needed or 0) > _MAX_LISTED_BYTES:
        raise CorruptFileError(f"{len(listed)} bytes of values cannot be {info.dtype} of {info.shape}")
    values = np.frombuffer(listed, dtype)
    if len(values) > count:
        raise CorruptFileError(f"it has {len(values)} values; its shape {info.shape} has {count}")
    filled = np.full(count, values[-1] if len(values) else 0, np.dtype(info.dtype))
    filled[: len(values)] = values
    return filled.reshape(info.shape)
