"""A graph whose float constants are stored in half precision."""

from __future__ import annotations

import numpy as np

from effdet_torch.errors import EffdetError
from effdet_torch.export.tflite.graph import Graph, Operation, Tensor

LARGEST = float(np.finfo(np.float16).max)
# What official files say: half precision is enough, if sums are made in float32.
SUPPORT = {"reduced_precision_support": b"fp16accfp32"}


def with_half_constants(graph: Graph) -> Graph:
    """Return the graph with all its float32 constants in float16, each behind a DEQUANTIZE; it computes in float32.

    Raises:
        EffdetError: A constant is too large for float16.
    """
    wide = {tensor: _dequantized(tensor) for tensor in graph.tensors() if _is_float(tensor)}
    operations = [
        Operation(old.kind, tuple(wide[x].outputs[0] if x in wide else x for x in old.inputs), old.outputs, old.options)
        for old in graph.operations
    ]
    return Graph(
        graph.inputs,
        graph.outputs,
        graph.output_names,
        [*wide.values(), *operations],
        graph.signature,
        graph.metadata | SUPPORT,
    )


def _is_float(tensor: Tensor) -> bool:
    return tensor.value is not None and tensor.dtype == np.float32


def _dequantized(tensor: Tensor) -> Operation:
    assert tensor.value is not None
    largest = float(np.abs(tensor.value).max(initial=0))
    if largest > LARGEST:
        raise EffdetError(
            f"the constant {tensor.name!r} has the value {largest:.6g}, and float16 ends at {LARGEST:.0f}; leave out "
            "--float16"
        )
    half = Tensor.constant(tensor.name, tensor.value.astype(np.float16))
    return Operation("DEQUANTIZE", (half,), (Tensor(f"{tensor.name}1", tensor.shape, tensor.dtype),))
