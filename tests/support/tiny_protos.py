"""Simple writers of the protocol buffers in TensorFlow 2 checkpoints, and of frozen graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH
from support.tiny_bundle import DTYPES, nested, number, write_bundle

VALUE = ".ATTRIBUTES/VARIABLE_VALUE"
_LISTS = {"float32": 5, "float64": 6}


@dataclass
class ObjectGraph:
    """A TrackableObjectGraph under construction, and the values of its keys."""

    nodes: list[bytes] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    slots: bytes = b""

    def add(self, path: str, full_name: str, value: Any = 0.0, attribute: str = VALUE) -> int:
        """Add an object with a value; return its number."""
        key = f"{path}/{attribute}"
        parts = (attribute.split("/")[1], full_name, key)
        tensor = b"".join(nested(number, part.encode()) for number, part in enumerate(parts, start=1))
        self.nodes.append(nested(2, tensor))
        self.values[key] = np.asarray(value, np.float32) if isinstance(value, float) else value
        return len(self.nodes) - 1

    def add_slot(self, variable: int, slot: str, path: str, value: Any = 0.0) -> None:
        """Add a slot, as `add` adds a variable."""
        place = self.add(f"{path}/.OPTIMIZER_SLOT/optimizer/{slot}", f"SGD/{path}/{slot}", value)
        self.slots += nested(3, number(1, variable) + nested(2, slot.encode()) + number(3, place))

    def data(self) -> bytes:
        """Return the protocol buffer."""
        return b"".join(nested(1, node) for node in [*self.nodes, self.slots])

    def write(self, prefix: Path) -> Path:
        """Write the checkpoint."""
        return write_bundle(prefix, {**self.values, OBJECT_GRAPH: np.array(self.data(), object)})


def tensor(value: Any, *, listed: Any = None, dtype: int | None = None) -> bytes:
    """A TensorProto: values as bytes, or `listed` ones in the field for lists."""
    array = np.asarray(value)
    shape = b"".join(nested(2, number(1, size)) for size in array.shape)
    if listed is None:
        content = nested(4, array.tobytes())
    else:
        content = nested(_LISTS[str(array.dtype)], np.asarray(listed, array.dtype).tobytes())
    return number(1, dtype or DTYPES[str(array.dtype)]) + nested(2, shape) + content


def node(name: str, operation: str, value: bytes | None = None) -> bytes:
    """A node of a GraphDef; with a TensorProto, it is a constant."""
    attributes = b"" if value is None else nested(5, nested(1, b"value") + nested(2, nested(8, value)))
    other = nested(5, nested(1, b"dtype") + nested(2, number(6, 1)))
    return nested(
        1, nested(1, name.encode()) + nested(2, operation.encode()) + nested(3, b"input") + other + attributes
    )


def graph_def(constants: Mapping[str, Any], *nodes: bytes) -> bytes:
    """A frozen graph, optionally with other nodes."""
    return b"".join([*(node(name, "Const", tensor(value)) for name, value in constants.items()), *nodes])
