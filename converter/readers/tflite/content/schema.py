"""The tables of TensorFlow Lite's schema that a network needs, as plain values.

Source: TensorFlow Lite's `schema.fbs`, version 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError
from converter.formats.flat.flatbuffer import Buffer, Table
from converter.readers.tflite.content.numbers import CUSTOM, OPERATIONS, OPTIONS, TYPES

VERSION = 3
MAX_AXES = 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor: its values, where it is a constant, and how they are quantised.

    Attributes:
        index: in its graph.
        name: as the converter left it; several names are separated by ";".
        shape: -1 for a size that is open.
        dtype: NumPy's name.
        data: bytes of a constant; empty for what is computed.
        scales: of quantised values, one or one per channel; empty if they are not quantised.
        zero_points: as many as `scales`.
        axis: of the channels.
        is_sparse: whether zeros are left out of `data`.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    notation: str
    data: memoryview
    scales: NDArray[Any]
    zero_points: NDArray[Any]
    axis: int
    is_sparse: bool


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation: tensors by index, -1 for one that is left out.

    Attributes:
        index: in the order of execution.
        kind: "CONV_2D", or the name of a custom operation.
        options: numbers by name, see `OPTIONS`.
        custom: options of a custom operation, as bytes.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]
    custom: bytes = b""
    is_custom: bool = False


@dataclass(frozen=True, eq=False)
class Subgraph:
    """One graph of a file."""

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A file.

    Attributes:
        graphs: usually one; one for each signature where they differ.
        signatures: (name, number of the graph, {name of an output: tensor}).
        metadata: {name: bytes}.
    """

    graphs: tuple[Subgraph, ...]
    signatures: tuple[tuple[str, int, Mapping[str, int]], ...]
    metadata: Mapping[str, bytes | memoryview]


def read_model(data: memoryview) -> Model:
    """Read a file.

    Args:
        data: all of its bytes; those of constants are not copied.

    Raises:
        CorruptFileError: It is damaged, or of another version of the schema.
    """
    root = Buffer(data).root()
    if (version := root.integer(0, "<I")) != VERSION:
        raise CorruptFileError(f"version {version} of the schema; expected {VERSION}")
    buffers = [_buffer(table, data) for table in root.tables(4)]
    codes = [_operation_name(table) for table in root.tables(1)]
    graphs = tuple(_subgraph(table, codes, buffers) for table in root.tables(2))
    metadata = {table.text(0): _item(buffers, table.integer(1, "<I"), "buffers") for table in root.tables(6)}
    return Model(graphs, tuple(_signature(table) for table in root.tables(7)), metadata)


def _buffer(table: Table, data: memoryview) -> memoryview:
    offset, size = table.integer(1, "<Q"), table.integer(2, "<Q")
    if offset <= 1:  # 0 and 1 stand for "inside of the FlatBuffer"
        return table.bytes(0)
    if offset + size > len(data):
        raise CorruptFileError(f"a constant of {size} bytes at byte {offset} lies outside of its {len(data)} bytes")
    return data[offset : offset + size]


def _operation_name(table: Table) -> tuple[str, bool]:
    """Return the name of a kind of operation, and whether it is a custom one."""
    code = max(table.integer(0, "<b"), table.integer(3, "<i"))  # the first field has room for 127 only
    return (table.text(1), True) if code == CUSTOM else (OPERATIONS.get(code, f"operation {code}"), False)


def _item(items: list[Any], index: int, what: str) -> Any:
    if not 0 <= index < len(items):
        raise CorruptFileError(f"number {index} of {len(items)} {what} is used")
    return items[index]


def _subgraph(table: Table, codes: list[tuple[str, bool]], buffers: list[memoryview]) -> Subgraph:
    tensors = tuple(_tensor(index, tensor, buffers) for index, tensor in enumerate(table.tables(0)))
    operations = tuple(_operation(index, operation, codes) for index, operation in enumerate(table.tables(3)))
    graph = Subgraph(tensors, operations, _indices(table, 1), _indices(table, 2))
    used = {index for operation in operations for index in (*operation.inputs, *operation.outputs)}
    for index in used | {*graph.inputs, *graph.outputs}:
        if not -1 <= index < len(tensors):
            raise CorruptFileError(f"an operation uses tensor {index}; there are {len(tensors)}")
    return graph


def _indices(table: Table, field: int) -> tuple[int, ...]:
    return tuple(table.numbers(field, "<i4").tolist())


def _tensor(index: int, table: Table, buffers: list[memoryview]) -> Tensor:
    shape, code = _indices(table, 0), table.integer(1, "<b")
    if len(shape) > MAX_AXES:
        raise CorruptFileError(f"tensor {index} has {len(shape)} axes; expected at most {MAX_AXES}")
    notation, dtype = TYPES.get(code, ("", f"type {code}"))
    scales: NDArray[Any] = np.zeros(0, np.float32)
    zeros: NDArray[Any] = np.zeros(0, np.int64)
    axis = 0
    if quantization := table.table(4):
        scales, zeros = quantization.numbers(2, "<f4"), quantization.numbers(3, "<i8")
        axis = quantization.integer(6, "<i")
    data = _item(buffers, table.integer(2, "<I"), "buffers")
    sparse = table.table(6) is not None
    return Tensor(index, table.text(3), shape, dtype, notation, data, scales, zeros, axis, sparse)


def _operation(index: int, table: Table, codes: list[tuple[str, bool]]) -> Operation:
    kind, is_custom = _item(codes, table.integer(0, "<I"), "kinds of operations")
    stored, wanted = table.table(4), {} if is_custom else OPTIONS.get(kind, {})
    options = {
        name: default if stored is None else stored.integer(field, form, default)
        for name, (field, form, default) in wanted.items()
    }
    custom = bytes(table.bytes(5)[: 1 << 16]) if is_custom else b""
    return Operation(index, kind, _indices(table, 1), _indices(table, 2), options, custom, is_custom)


def _signature(table: Table) -> tuple[str, int, Mapping[str, int]]:
    outputs = {output.text(0): output.integer(1, "<I") for output in table.tables(1)}
    return table.text(2), table.integer(4, "<I"), outputs
