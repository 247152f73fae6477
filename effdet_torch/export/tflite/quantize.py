"""A float graph as one of 8-bit integers: the structure of the official int8 files.

An image of bytes, QUANTIZE, a network of int8 with a scale for each channel of its kernels and one for every other
tensor, and DEQUANTIZE before what computes in floats: the detection operation, or the user.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import ConfigError
from effdet_torch.export.tflite.graph import Graph, Operation, Quantization, Tensor
from effdet_torch.export.tflite.scales import (
    CHANNEL_AXES,
    HIGH,
    LOW,
    QUANTIZABLE,
    Range,
    encode,
    of_activations,
    of_bias,
    of_kernel,
)

FLOAT_OPERATIONS = {"TFLite_Detection_PostProcess"}
INT8, INT32, UINT8, FLOAT32 = (np.dtype(kind) for kind in (np.int8, np.int32, np.uint8, np.float32))
LARGEST_INT32 = (1 << 31) - 1


def quantize(graph: Graph, ranges: Mapping[Tensor, Range], image: Quantization) -> Graph:
    """Return a graph that computes in int8.

    Args:
        graph: in float32, with one image as its input.
        ranges: of every float tensor that an operation writes.
        image: the quantization of the image as int8; the file takes it as uint8.

    Raises:
        ConfigError: It has an operation that is not quantised.
        EffdetError: The range of a tensor cannot be quantised.
    """
    require_quantizable(graph)
    ((name, given),) = graph.inputs.items()
    pixels = Tensor(given.name, given.shape, UINT8, None, Quantization(image.scales, image.zero_points - LOW))
    result = _Quantized(graph, of_activations(graph, ranges, image))
    result.operations.append(Operation("QUANTIZE", (pixels,), (result.codes[given],)))
    for operation in graph.operations:
        if operation.kind in FLOAT_OPERATIONS:
            result.add_in_floats(operation)
        else:
            result.add(operation)
    outputs = [result.as_floats(tensor) for tensor in graph.outputs]
    return Graph({name: pixels}, outputs, graph.output_names, result.operations, graph.signature, dict(graph.metadata))


def require_quantizable(graph: Graph) -> None:
    """Refuse a graph with operations that official int8 files do not have.

    Raises:
        ConfigError: It has one.
    """
    found = {operation.kind for operation in graph.operations} - QUANTIZABLE - FLOAT_OPERATIONS
    if found:
        raise ConfigError(
            "int8 is written for the lite variants, which are made of convolutions, relu6 and sums; this network has "
            f"{', '.join(sorted(found))} as well (swish, squeeze-excite or weighted fusion), which lose accuracy in 8 "
            "bits, and there is no official int8 file of such a network to compare with. Leave out --int8, or pass "
            "--float16"
        )


class _Quantized:
    """The new graph as it grows.

    Attributes:
        codes: {float tensor of the old graph: tensor of its codes}.
        operations: so far.
    """

    def __init__(self, graph: Graph, quantizations: Mapping[Tensor, Quantization]) -> None:
        outputs = set(graph.outputs)
        names = {tensor: f"{tensor.name}_int8" if tensor in outputs else tensor.name for tensor in quantizations}
        names |= dict.fromkeys(graph.inputs.values(), "quantized_image")
        self.codes = {x: Tensor(names[x], x.shape, INT8, None, found) for x, found in quantizations.items()}
        self.operations: list[Operation] = []
        self._outputs, self._floats = outputs, dict[Tensor, Tensor]()
        self._kernels = {kernel: self._kernel(kernel, users) for kernel, users in _users_of_kernels(graph).items()}
        self._names = Counter[str]()

    def add(self, operation: Operation) -> None:
        """Add an operation that computes with codes."""
        inputs = tuple(self.codes.get(tensor, tensor) for tensor in operation.inputs)
        if operation.kind in CHANNEL_AXES:
            x, kernel, bias = inputs
            inputs = x, self._kernels[kernel], self._bias(bias, x, self._kernels[kernel])
        outputs = tuple(self.codes[tensor] for tensor in operation.outputs)
        self.operations.append(Operation(operation.kind, inputs, outputs, operation.options))

    def add_in_floats(self, operation: Operation) -> None:
        """Add an operation that computes with floats."""
        inputs = tuple(map(self.as_floats, operation.inputs))
        self.operations.append(Operation(operation.kind, inputs, operation.outputs, operation.options))

    def as_floats(self, tensor: Tensor) -> Tensor:
        """Return the floats of a tensor, which are dequantised if they are not there."""
        if tensor not in self.codes:
            return tensor
        if tensor not in self._floats:
            name = tensor.name if tensor in self._outputs else f"{tensor.name}1"
            self._floats[tensor] = Tensor(name, tensor.shape, FLOAT32)
            self.operations.append(Operation("DEQUANTIZE", (self.codes[tensor],), (self._floats[tensor],)))
        return self._floats[tensor]

    def _kernel(self, kernel: Tensor, users: list[Operation]) -> Tensor:
        biases = [(_value(user.inputs[2]), float(_scale(self.codes[user.inputs[0]]))) for user in users]
        quantization = of_kernel(_value(kernel), CHANNEL_AXES[users[0].kind], biases)
        codes = encode(_value(kernel), quantization, -HIGH, HIGH).astype(np.int8)
        return Tensor(kernel.name, kernel.shape, INT8, codes, quantization)

    def _bias(self, bias: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
        """Return the codes of a bias: one that several operations use becomes several, with a scale each."""
        assert kernel.quantization is not None
        quantization = of_bias(_scale(x), kernel.quantization)
        codes = encode(_value(bias), quantization, -LARGEST_INT32, LARGEST_INT32).astype(np.int32)
        self._names[bias.name] += 1
        number = self._names[bias.name] - 1
        return Tensor(f"{bias.name}{number or ''}", bias.shape, INT32, codes, quantization)


def _users_of_kernels(graph: Graph) -> dict[Tensor, list[Operation]]:
    users = defaultdict[Tensor, list[Operation]](list)
    for operation in graph.operations:
        if operation.kind in CHANNEL_AXES:
            users[operation.inputs[1]].append(operation)
    return users


def _value(tensor: Tensor) -> NDArray[np.float32]:
    assert tensor.value is not None
    return tensor.value


def _scale(tensor: Tensor) -> np.float32:
    assert tensor.quantization is not None
    scale: np.float32 = tensor.quantization.scales[0]
    return scale
