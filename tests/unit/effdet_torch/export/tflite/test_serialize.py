"""Graphs as bytes: read back by Google's classes for the schema."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import flexbuffers

from effdet_torch.errors import EffdetError
from effdet_torch.export.tflite.float16 import with_half_constants
from effdet_torch.export.tflite.graph import Graph, Operation, Quantization, Tensor
from effdet_torch.export.tflite.serialize import serialize

FLOAT = np.dtype(np.float32)


def sums(*values: Any) -> Graph:
    """Return a graph that adds constants (2,) to its input, one after another."""
    image = Tensor("image", (1, 2), FLOAT)
    operations, x = [], image
    for number, value in enumerate(values):
        constant = Tensor.constant(f"constant{number}", np.array(value, np.float32))
        output = Tensor(f"sum{number}", (1, 2), FLOAT)
        operations.append(Operation("ADD", (x, constant), (output,), {"fusedActivationFunction": 1}))
        x = output
    return Graph({"images": image}, [x], ["output_0"], operations, "predict", {"note": b"text"})


def read(graph: Graph) -> Any:
    return schema.ModelT.InitFromPackedBuf(serialize(graph), 0)


@pytest.mark.parametrize(
    ("scale", "zero_point", "said"),
    [
        (1.0, 128, "the zero point 128 of 'image' is none of its codes, -128 to 127"),
        (1.0, -129, "the zero point -129 of 'image'"),
        (0.0, 0, "the scales of 'image' reach from 0 to 0; expected finite numbers above 0"),
        (float("inf"), 0, "the scales of 'image' reach from inf to inf"),
    ],
)
def test_a_quantization_that_would_end_the_process_is_refused(scale: float, zero_point: int, said: str) -> None:
    graph = sums([1, 2])
    (image,) = graph.inputs.values()
    image.dtype = np.dtype(np.int8)
    image.quantization = Quantization(np.array([1.0], np.float32), np.array([127], np.int64))
    serialize(graph)
    image.quantization = Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))
    with pytest.raises(EffdetError, match=said):
        serialize(graph)


def test_equal_constants_are_stored_once_and_aligned() -> None:
    graph = sums([1, 2], [3, 4], [1, 2])
    model = read(graph)
    part = model.subgraphs[0]
    places = {tensor.name.decode(): tensor.buffer for tensor in part.tensors}
    assert places["constant0"] == places["constant2"] != places["constant1"]
    assert places["image"] == places["sum0"] == 0
    assert not model.buffers[0].data
    data = serialize(graph)
    assert data[4:8] == b"TFL3"
    packed = schema.Model.GetRootAs(data, 0)
    for number in range(1, packed.BuffersLength()):
        buffer = packed.Buffers(number)
        assert data.find(buffer.DataAsNumpy().tobytes()) % 16 == 0
    assert len(data) < len(serialize(sums([1, 2], [3, 4], [5, 6])))


def test_operations_and_signature() -> None:
    model = read(sums([1, 2], [-30, 4]))
    part, signature = model.subgraphs[0], model.signatureDefs[0]
    assert [(code.builtinCode, code.version) for code in model.operatorCodes] == [(schema.BuiltinOperator.ADD, 1)]
    assert [operator.builtinOptions.fusedActivationFunction for operator in part.operators] == [1, 1]
    assert (signature.signatureKey, signature.inputs[0].name, signature.outputs[0].name) == (
        b"predict",
        b"images",
        b"output_0",
    )
    assert bytes(model.buffers[model.metadata[0].buffer].data) == b"text"
    assert (model.version, model.metadata[0].name) == (3, b"note")


def test_it_runs() -> None:
    runner = Interpreter(model_content=serialize(sums([1, 2], [-3, 4]))).get_signature_runner("predict")
    found = runner(images=np.array([[1, 1]], np.float32))
    assert found["output_0"].tolist() == [[0, 7]]


def test_options_of_a_custom_operation() -> None:
    graph = sums([1, 2])
    options = {"number": 3, "share": 0.5, "least": float("-inf")}
    custom = replace(graph.operations[0], kind="Own_Operation", options=options)
    operator = read(replace(graph, operations=[custom])).subgraphs[0].operators[0]
    assert flexbuffers.Loads(bytes(operator.customOptions)) == options
    code = read(replace(graph, operations=[custom])).operatorCodes[0]
    assert (code.builtinCode, code.deprecatedBuiltinCode, code.customCode) == (32, 32, b"Own_Operation")


def test_quantised_tensors_and_versions() -> None:
    codes = Tensor.constant("codes", np.array([[1], [-2]], np.int8))
    codes.quantization = Quantization(np.array([0.5, 0.25], np.float32), np.array([0, 0]), axis=0)
    real = Tensor("real", (2, 1), FLOAT)
    graph = Graph({}, [real], ["output_0"], [Operation("DEQUANTIZE", (codes,), (real,))], "predict")
    model = read(graph)
    stored = model.subgraphs[0].tensors[0]
    assert (stored.type, stored.quantization.scale.tolist()) == (schema.TensorType.INT8, [0.5, 0.25])
    assert (stored.quantization.zeroPoint.tolist(), stored.quantization.quantizedDimension) == ([0, 0], 0)
    assert model.operatorCodes[0].version == 2


def test_half_constants() -> None:
    graph = with_half_constants(sums([1 / 3, 2], [3, 4]))
    assert [operation.kind for operation in graph.operations] == ["DEQUANTIZE", "DEQUANTIZE", "ADD", "ADD"]
    assert graph.metadata == {"note": b"text", "reduced_precision_support": b"fp16accfp32"}
    assert [code.version for code in read(graph).operatorCodes] == [3, 1]
    runner = Interpreter(model_content=serialize(graph)).get_signature_runner("predict")
    found = runner(images=np.zeros((1, 2), np.float32))["output_0"]
    assert found.tolist() == [[np.float32(np.float16(1 / 3)) + np.float32(3), 6]]


def test_half_constants_that_are_too_large() -> None:
    with pytest.raises(EffdetError, match=r"'constant1' has the value 70000, and float16 ends at 65504"):
        with_half_constants(sums([1, 2], [3, -70000]))
