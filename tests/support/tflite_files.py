"""TensorFlow Lite files for tests: written from a listing of one, filled with seeded values, folded as TensorFlow does.

A listing has the tensors and operations of a real file, without its constants. What a constant holds is decided by its
*name* here, while the converter goes by the graph: two independent readings of the same file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder, flexbuffers
from numpy.typing import NDArray

EPSILON, FUSION_EPSILON = 1e-3, 1e-4
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "MEAN": "ReducerOptions",
}
UNLISTED = {
    "CONV_2D": ("dilationWFactor", "dilationHFactor"),
    "DEPTHWISE_CONV_2D": ("dilationWFactor", "dilationHFactor"),
}
UNLISTED |= {"MEAN": ("keepDims",)}  # options that are 1 in every file
DETECTION = "TFLite_Detection_PostProcess"

Variables = Mapping[str, NDArray[Any]]


@dataclass
class Row:
    """A tensor or an operation of a listing."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    size_bytes: int = 0
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    options: Mapping[str, Any] | None = None


@dataclass
class Listing:
    """The tensors and operations of one file."""

    tensors: list[Row]
    operations: list[Row]
    inputs: list[int]
    outputs: list[int]
    signature: str
    named_outputs: list[tuple[str, int]]


def read_listing(path: Path) -> Listing:
    """Read `*_none.txt`: tensors, then operations."""
    head, tensors, operations = {}, list[Row](), list[Row]()
    for line in path.read_text().splitlines():
        if line.startswith("# metadata"):
            signature = ast.literal_eval(line.partition("signatures ")[2])[0]
        elif line.startswith("# inputs"):
            inputs, outputs = line.removeprefix("# inputs ").split(" outputs ")
            head = {"inputs": ast.literal_eval(inputs), "outputs": ast.literal_eval(outputs)}
        if line.startswith("#"):
            continue
        cells = line.split("\t")
        if cells[2].startswith("["):
            options = eval(cells[4], {"__builtins__": {}}, {"inf": float("inf"), "nan": float("nan")})
            ends = (tuple(ast.literal_eval(cell)) for cell in cells[2:4])
            operations.append(Row(cells[1], inputs=next(ends), outputs=next(ends), options=options))
        else:
            tensors.append(Row(cells[1], cells[2], tuple(ast.literal_eval(cells[3])), int(cells[4])))
    return Listing(tensors, operations, **head, signature=signature[0], named_outputs=signature[2])


def fill(listing: Listing, variables: Variables, anchors: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """Return {tensor: value} of all constants.

    Args:
        listing: of a float file.
        variables: official ones.
        anchors: (A, 4) as (y, x, height, width), divided by the image's size.
    """
    values: dict[int, NDArray[Any]] = {}
    for operation in listing.operations:
        for position, index in enumerate(operation.inputs):
            row = listing.tensors[index]
            if index in values or not row.size_bytes:
                continue
            value = _constant(listing, operation, position, row, variables, anchors)
            values[index] = np.ascontiguousarray(value, np.int32 if row.dtype == "INT32" else np.float32)
            assert values[index].nbytes == row.size_bytes, row.name
    return values


def _constant(
    listing: Listing, operation: Row, position: int, row: Row, variables: Variables, anchors: NDArray[Any]
) -> NDArray[Any]:
    shape = listing.tensors[operation.outputs[0]].shape
    if row.dtype == "INT32":
        kinds = {"RESHAPE": (1, -1, shape[-1]), "RESIZE_NEAREST_NEIGHBOR": shape[1:3], "MEAN": (1, 2)}
        return np.array(kinds[operation.name])
    if operation.name == DETECTION:
        return anchors
    if operation.name == "MUL":
        return np.broadcast_to(_factor(row.name, variables), row.shape)
    kernel, bias = folded(listing.tensors[operation.inputs[1]].name, variables)
    return kernel if position == 1 else bias


def _factor(name: str, variables: Variables) -> NDArray[Any]:
    node = re.match(r"(fpn_cells/cell_\d+/fnode\d+)/(Relu|truediv)(?:_(\d+))?", name)
    assert node, name
    weights = node_weights(node[1], variables)
    if node[2] == "truediv":
        return 1 / (sum(weights) + FUSION_EPSILON)
    return weights[int(node[3] or 0)] if "ReadVariableOp" in name else np.zeros(())


def node_weights(node: str, variables: Variables) -> list[NDArray[np.float64]]:
    """Return relu(WSM) of all inputs of a node."""
    names = [f"{node}/WSM{f'_{number}' if number else ''}" for number in range(9)]
    return [np.maximum(0, variables[name].astype(np.float64)) for name in names if name in variables]


def folded(name: str, variables: Variables) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return kernel and bias of the layer that a kernel's name means, in TensorFlow Lite's layout."""
    layer = next(filter(None, map(_layer, name.split(";"))))
    scope, kind, level = layer
    if kind == "depthwise":
        kernel = variables[f"{scope}/depthwise_kernel"].transpose(3, 0, 1, 2)
    else:
        suffix = "pointwise_kernel" if kind == "separable" else "kernel"
        kernel = variables[f"{scope}/{suffix}"].transpose(3, 0, 1, 2)
    bias = variables.get(f"{scope}/bias") if kind != "depthwise" else None
    channels = kernel.shape[3 if kind == "depthwise" else 0]
    bias = np.zeros(channels) if bias is None else bias.astype(np.float64)
    norm = _norm(scope, kind, level, variables)
    if norm:
        gamma, beta, mean, variance = (
            variables[f"{norm}/{part}"].astype(np.float64)
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        kernel = kernel * (scale if kind == "depthwise" else scale.reshape(-1, 1, 1, 1))
        bias = (bias - mean) * scale + beta
    if "/mul;" in name:
        node, position = re.match(r"(.+)/resample_(\d+)_", scope).groups()  # type: ignore[union-attr]
        weights = node_weights(node, variables)
        factor = weights[int(position)] / (sum(weights) + FUSION_EPSILON)
        kernel, bias = kernel * factor.reshape(-1, 1, 1, 1), bias * factor
    return kernel, bias


def _layer(component: str) -> tuple[str, str, int] | None:
    """Return (scope, kind, number of the level) of the layer that a part of a name means."""
    patterns = {
        r"(.+/depthwise_conv2d)/depthwise\d*": "depthwise",
        r"(.+)/separable_conv2d(?:_(\d))?/depthwise\d*": "depthwise",
        r"(.+)/separable_conv2d(?:_(\d))?": "separable",
        r"(.+/conv2d(?:_1)?)/Conv2D\d*": "conv",
    }
    for pattern, kind in patterns.items():
        if found := re.fullmatch(pattern, component):
            groups = found.groups()
            return groups[0], kind, int(groups[1] or 0) if len(groups) > 1 else 0
    return None


def _norm(scope: str, kind: str, level: int, variables: Variables) -> str | None:
    """Return the batch norm behind a layer."""
    if block := re.fullmatch(r"(.+/(?:blocks_\d+|stem))/(conv2d|conv2d_1|depthwise_conv2d)", scope):
        order = ["conv2d", "depthwise_conv2d", "conv2d_1"]
        if f"{block[1]}/conv2d_1/kernel" not in variables:
            order = ["conv2d"] if block[1].endswith("stem") else ["depthwise_conv2d", "conv2d"]
        number = order.index(block[2])
        return f"{block[1]}/tpu_batch_normalization{f'_{number}' if number else ''}"
    if "/se/" in scope or scope.endswith("-predict"):
        return None
    if re.search(r"/(class|box)-\d+$", scope):
        return None if kind == "depthwise" else f"{scope}-bn-{_lowest(scope, variables) + level}"
    if scope.endswith("/conv"):
        return None if kind == "depthwise" else f"{scope.removesuffix('/conv')}/bn"
    return f"{scope.removesuffix('/conv2d')}/bn"


def _lowest(scope: str, variables: Variables) -> int:
    return min(int(found[1]) for name in variables if (found := re.match(rf"{scope}-bn-(\d+)/", name)))


def build(
    listing: Listing, values: Mapping[int, NDArray[Any]], rename: Callable[[int, str], str] = lambda _, name: name
) -> schema.ModelT:
    """Return a model with the tensors and operations of a listing."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "made by a test"
    model.buffers = [schema.BufferT()]
    kinds = list(dict.fromkeys(row.name for row in listing.operations))
    model.operatorCodes = [_code(kind) for kind in kinds]
    graph.tensors = [_tensor(model, index, row, values, rename) for index, row in enumerate(listing.tensors)]
    graph.operators = [_operator(row, kinds.index(row.name)) for row in listing.operations]
    graph.inputs, graph.outputs = listing.inputs, listing.outputs
    model.subgraphs, model.metadata = [graph], []
    model.signatureDefs = [_signature(listing)]
    return model


def pack(model: schema.ModelT) -> bytes:
    """Return a model as the bytes of a file."""
    builder = Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unpack(data: bytes) -> schema.ModelT:
    """Return the model in the bytes of a file, to be changed."""
    return schema.ModelT.InitFromPackedBuf(data, 0)


def _code(kind: str) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    number = schema.BuiltinOperator.CUSTOM if kind == DETECTION else getattr(schema.BuiltinOperator, kind)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    code.customCode = kind if kind == DETECTION else None
    return code


def _tensor(
    model: schema.ModelT, index: int, row: Row, values: Mapping[int, NDArray[Any]], rename: Callable[[int, str], str]
) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = rename(index, row.name), list(row.shape)
    tensor.type, tensor.buffer = getattr(schema.TensorType, row.dtype), 0
    if index in values:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values[index].tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    return tensor


def _operator(row: Row, code: int) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, list(row.inputs), list(row.outputs)
    if row.name == DETECTION:
        builder = flexbuffers.Builder()
        with builder.Map():
            for name, value in (row.options or {}).items():
                (builder.Float if isinstance(value, float) else builder.Int)(name, value)
        operator.customOptions = np.frombuffer(bytes(builder.Finish()), np.uint8)
    elif kind := OPTIONS.get(row.name):
        options = getattr(schema, f"{kind}T")()
        for name, value in (row.options or {}).items():
            setattr(options, name, value)
        for name in UNLISTED.get(row.name, ()):
            setattr(options, name, 1)
        operator.builtinOptions, operator.builtinOptionsType = options, getattr(schema.BuiltinOptions, kind)
    return operator


def _signature(listing: Listing) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = listing.signature, 0
    signature.inputs = [_named("images", listing.inputs[0])]
    signature.outputs = [_named(name, index) for name, index in listing.named_outputs]
    return signature


def _named(name: str, index: int) -> schema.TensorMapT:
    tensor = schema.TensorMapT()
    tensor.name, tensor.tensorIndex = name, index
    return tensor
