"""A graph as the bytes of a file.

The byte work is that of Google's packages: `flatbuffers`, and the classes for the schema in `ai_edge_litert`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder, flexbuffers

from effdet_torch.errors import EffdetError
from effdet_torch.export.tflite.graph import Graph, Operation, Quantization, Tensor

SCHEMA_VERSION, IDENTIFIER = 3, b"TFL3"
DESCRIPTION = "written by effdet-convert"
SCALE = "finite numbers above 0. Look for extreme values in the weights, or leave out --int8"
ALIGNMENT = 16  # bytes, of constants in the file; stated in the schema, which the Python classes do not obey
# Operation -> the class of its options; others have none, or their own.
OPTIONS: Mapping[str, str] = {
    "ADD": "AddOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MUL": "MulOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}
# (operation, dtype of its first input) -> the first version of the operation that takes it; of others 1.
VERSIONS: Mapping[tuple[str, str], int] = {
    ("ADD", "int8"): 2,
    ("CONCATENATION", "int8"): 2,
    ("CONV_2D", "int8"): 3,
    ("DEPTHWISE_CONV_2D", "int8"): 3,
    ("DEQUANTIZE", "int8"): 2,
    ("DEQUANTIZE", "float16"): 3,
    ("LOGISTIC", "int8"): 2,
    ("MAX_POOL_2D", "int8"): 2,
    ("RESIZE_NEAREST_NEIGHBOR", "int8"): 2,
}


class _Constant(schema.BufferT):  # type: ignore[misc]
    """Bytes that begin at a multiple of `ALIGNMENT`."""

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        data = self.data
        builder.StartVector(1, len(data), ALIGNMENT)
        builder.head = builder.head - len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class _Buffers:
    """The constants of a file: equal ones are stored once."""

    def __init__(self) -> None:
        self.stored: list[Any] = [schema.BufferT()]  # the first one is that of all tensors without a value
        self._places: dict[bytes, int] = {}

    def place(self, data: bytes) -> int:
        if data not in self._places:
            self._places[data] = len(self.stored)
            buffer = _Constant()
            buffer.data = data
            self.stored.append(buffer)
        return self._places[data]


def serialize(graph: Graph) -> bytes:
    """Return the file of a graph.

    Raises:
        EffdetError: A scale or zero point is not one: LiteRT would end the whole process.
    """
    model, buffers, tensors = schema.ModelT(), _Buffers(), list(graph.tensors())
    places = {tensor: index for index, tensor in enumerate(tensors)}
    codes = list(dict.fromkeys(map(_code_of, graph.operations)))
    part = schema.SubGraphT()
    part.name = "main"
    part.tensors = [_tensor(tensor, buffers) for tensor in tensors]
    part.operators = [_operator(operation, codes, places) for operation in graph.operations]
    part.inputs = [places[tensor] for tensor in graph.inputs.values()]
    part.outputs = [places[tensor] for tensor in graph.outputs]
    model.version, model.description, model.subgraphs = SCHEMA_VERSION, DESCRIPTION, [part]
    model.operatorCodes = [_operator_code(*code) for code in codes]
    model.signatureDefs = [_signature(graph, places)]
    model.metadata = [_metadata(name, buffers.place(data)) for name, data in graph.metadata.items()]
    model.buffers = buffers.stored
    builder = Builder(sum(len(buffer.data or b"") + 2 * ALIGNMENT for buffer in buffers.stored) + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tensor(tensor: Tensor, buffers: _Buffers) -> Any:
    stored = schema.TensorT()
    stored.name, stored.shape, stored.buffer = tensor.name, list(tensor.shape), 0
    stored.type, stored.hasRank = getattr(schema.TensorType, tensor.dtype.name.upper()), True
    if tensor.value is not None:
        stored.buffer = buffers.place(np.ascontiguousarray(tensor.value, tensor.dtype.newbyteorder("<")).tobytes())
    if tensor.quantization is not None:
        stored.quantization = _quantization(tensor, tensor.quantization)
    return stored


def _quantization(tensor: Tensor, quantization: Quantization) -> Any:
    scales, zeros, codes = quantization.scales, quantization.zero_points, np.iinfo(tensor.dtype)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise EffdetError(
            f"the scales of {tensor.name!r} reach from {scales.min():g} to {scales.max():g}; expected {SCALE}"
        )
    if not ((codes.min <= zeros) & (zeros <= codes.max)).all():
        raise EffdetError(
            f"the zero point {zeros[0]} of {tensor.name!r} is none of its codes, {codes.min} to {codes.max}. "
            "Leave out --int8"
        )
    stored = schema.QuantizationParametersT()
    stored.scale, stored.zeroPoint = quantization.scales, quantization.zero_points
    stored.quantizedDimension = quantization.axis
    return stored


def _code_of(operation: Operation) -> tuple[str, int]:
    first = operation.inputs[0].dtype.name
    return operation.kind, VERSIONS.get((operation.kind, first), 1)


def _operator_code(kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    code.customCode = kind if number == schema.BuiltinOperator.CUSTOM else None
    return code


def _operator(operation: Operation, codes: Sequence[tuple[str, int]], places: Mapping[Tensor, int]) -> Any:
    operator, code = schema.OperatorT(), _code_of(operation)
    operator.opcodeIndex = codes.index(code)
    operator.inputs = [places[tensor] for tensor in operation.inputs]
    operator.outputs = [places[tensor] for tensor in operation.outputs]
    if kind := OPTIONS.get(operation.kind):
        options = getattr(schema, f"{kind}T")()
        for name, value in operation.options.items():
            setattr(options, name, value)
        operator.builtinOptions, operator.builtinOptionsType = options, getattr(schema.BuiltinOptions, kind)
    elif operation.options:
        operator.customOptions = np.frombuffer(_flexbuffer(operation.options), np.uint8)
    return operator


def _flexbuffer(options: Mapping[str, Any]) -> bytes:
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, value in options.items():
            (builder.Float if isinstance(value, float) else builder.Int)(name, value)
    return bytes(builder.Finish())


def _signature(graph: Graph, places: Mapping[Tensor, int]) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = graph.signature, 0
    signature.inputs = [_named(name, places[tensor]) for name, tensor in graph.inputs.items()]
    named = sorted(zip(graph.output_names, graph.outputs, strict=True), key=lambda pair: int(pair[0].split("_")[1]))
    signature.outputs = [_named(name, places[tensor]) for name, tensor in named]
    return signature


def _named(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def _metadata(name: str, buffer: int) -> Any:
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, buffer
    return entry
