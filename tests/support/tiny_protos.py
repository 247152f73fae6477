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
    """A TrackableObjectGraph under construction, and the values of its keys; a path makes the objects on its way."""

    children: list[dict[str, int]] = field(default_factory=lambda: [{}])
    attributes: dict[int, bytes] = field(default_factory=dict)
    slots: dict[int, bytes] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def object(self, path: str) -> int:
        """Return the number of the object at a path."""
        place = 0
        for name in filter(None, path.split("/")):
            if name not in self.children[place]:
                self.children[place][name] = len(self.children)
                self.children.append({})
            place = self.children[place][name]
        return place

    def link(self, path: str, place: int) -> None:
        """Make an object an attribute of another one as well."""
        owner, _, name = path.rpartition("/")
        self.children[self.object(owner)][name] = place

    def add(self, path: str, full_name: str, value: Any = 0.0, attribute: str = VALUE) -> int:
        """Add an object with a value; return its number."""
        place = self.object(path)
        self._attach(place, f"{path}/{attribute}", full_name, value)
        return place

    def rename(self, path: str, full_name: str) -> None:
        """Give the object at a path another full name."""
        place = self.object(path)
        self.attributes[place] = b""
        key = f"{path}/{VALUE}"
        self._attach(place, key, full_name, self.values[key])

    def add_slot(self, variable: int, slot: str, path: str, value: Any = 0.0, optimizer: str = "optimizer") -> int:
        """Add a slot of a variable, whose path is given; no attribute refers to a slot."""
        place = len(self.children)
        self.children.append({})
        self._attach(place, f"{path}/.OPTIMIZER_SLOT/{optimizer}/{slot}/{VALUE}", f"SGD/{path}/{slot}", value)
        owner = self.object(optimizer)
        added = nested(3, number(1, variable) + nested(2, slot.encode()) + number(3, place))
        self.slots[owner] = self.slots.get(owner, b"") + added
        return place

    def _attach(self, place: int, key: str, full_name: str, value: Any) -> None:
        parts = (key.rsplit("/", 1)[1], full_name, key)
        tensor = b"".join(nested(number, part.encode()) for number, part in enumerate(parts, start=1))
        self.attributes[place] = self.attributes.get(place, b"") + nested(2, tensor)
        self.values[key] = np.asarray(value, np.float32) if isinstance(value, float) else value

    def data(self) -> bytes:
        """Return the protocol buffer."""
        links = [
            b"".join(nested(1, number(1, child) + nested(2, name.encode())) for name, child in children.items())
            for children in self.children
        ]
        return b"".join(
            nested(1, link + self.attributes.get(place, b"") + self.slots.get(place, b""))
            for place, link in enumerate(links)
        )

    def write(self, prefix: Path, **options: Any) -> Path:
        """Write the checkpoint, see `write_bundle`."""
        return write_bundle(prefix, {**self.values, OBJECT_GRAPH: np.array(self.data(), object)}, **options)


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
