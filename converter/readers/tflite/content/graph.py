"""One graph of a file as a network: who computes and who uses a tensor, without what only changes number formats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.readers.tflite.content.schema import Operation, Subgraph, Tensor

FORMATS = ("QUANTIZE", "DEQUANTIZE")  # the same values in another number format
# What an operation can do with its result; 0 is nothing.
FUSED: Mapping[int, str] = {1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: "tanh"}
ACTIVATIONS: Mapping[str, str] = {"RELU": "relu", "RELU6": "relu6", "HARD_SWISH": "hswish"}
MISH = ("TANH", "LOG", "ADD", "EXP")  # the last operation first
SAME = 0  # the padding of TensorFlow's name
# Kind of operation -> how many inputs it has at least.
LEAST_INPUTS: Mapping[str, int] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL", "DIV"), 2),
    **dict.fromkeys(("MAX_POOL_2D", "RESIZE_NEAREST_NEIGHBOR", "LOGISTIC", "MEAN", "AVERAGE_POOL_2D"), 1),
}
KERNEL_AXES = 4


class Activated(NamedTuple):
    """A tensor behind an activation, and our name of that; "" if there is none."""

    tensor: int
    name: str


class Graph:
    """A graph whose tensors are numbers; a tensor in another number format has the number of the first one.

    Args:
        subgraph: as it lies in the file.

    Raises:
        CorruptFileError: A tensor is computed twice, or from itself.
    """

    def __init__(self, subgraph: Subgraph) -> None:
        self._tensors = subgraph.tensors
        self._producers: dict[int, Operation] = {}
        self._consumers = defaultdict[int, list[Operation]](list)
        self._alias: dict[int, int] = {}
        self.operations: list[Operation] = []
        for operation in subgraph.operations:
            self._add(operation)
        self.inputs = [self.plain(index) for index in subgraph.inputs]
        self.outputs = [self.plain(index) for index in subgraph.outputs]

    def plain(self, index: int) -> int:
        """Return the tensor that has the same values in the first number format."""
        return self._alias.get(index, index)

    def tensor(self, index: int) -> Tensor:
        """Return a tensor by its number."""
        return self._tensors[index]

    def is_constant(self, index: int) -> bool:
        """Whether a tensor has values in the file."""
        return index >= 0 and index not in self._producers and len(self._tensors[index].data) > 0

    def producer(self, index: int) -> Operation | None:
        """Return what computes a tensor; None for inputs and constants."""
        return self._producers.get(index)

    def consumers(self, index: int, *kinds: str) -> list[Operation]:
        """Return what uses a tensor, in the order of execution: all, or of some kinds."""
        return [operation for operation in self._consumers[index] if not kinds or operation.kind in kinds]

    def uses(self, constant: int) -> int:
        """Return how many operations use a tensor."""
        return len(self._consumers[constant])

    def other_input(self, operation: Operation, index: int) -> int:
        """Return the first input of an operation that is not the given one; -1 if there is none."""
        return next((other for other in operation.inputs if other != index), -1)

    def activated(self, index: int) -> Activated:
        """Return what a tensor is behind its activation.

        Raises:
            UnsupportedSourceError: The activation is not one of an EfficientDet.
        """
        operation = self._producers.get(index)
        code = 0 if operation is None else operation.options.get("activation", 0)
        if code:
            if FUSED.get(code) not in ("relu", "relu6"):
                raise UnsupportedSourceError(f"an unknown activation: {FUSED.get(code, f'code {code}')}")
            return Activated(index, FUSED[code])
        users = self._consumers[index]
        if len(users) == 1 and users[0].kind in ACTIVATIONS:
            return Activated(users[0].outputs[0], ACTIVATIONS[users[0].kind])
        gates = [user.outputs[0] for user in users if user.kind == "LOGISTIC"]
        products = [user for user in users if user.kind == "MUL" and set(user.inputs) & set(gates)]
        if len(users) == 2 and gates and products:
            return Activated(products[0].outputs[0], "swish")
        if len(users) == 2 and (product := self._mish(index, users)) is not None:
            return Activated(product, "mish")
        return Activated(index, "")

    def _mish(self, index: int, users: list[Operation]) -> int | None:
        """Return x * tanh(log(1 + exp(x))), if that is what two operations make of a tensor x."""
        for product in (user for user in users if user.kind == "MUL"):
            tensor = self.other_input(product, index)
            for kind in MISH:
                operation = self._producers.get(tensor)
                if operation is None or operation.kind != kind:
                    return None
                computed = [other for other in operation.inputs if not self.is_constant(other)]
                tensor = computed[0] if computed else -1
            return product.outputs[0] if tensor == index else None
        return None

    def _add(self, operation: Operation) -> None:
        inputs = tuple(self.plain(index) for index in operation.inputs)
        if twice := [index for index in operation.outputs if index in self._producers or index in self._alias]:
            raise CorruptFileError(f"tensor {twice[0]} is computed twice")
        if set(inputs) & set(operation.outputs) or not operation.outputs:
            raise CorruptFileError(f"operation {operation.index} ({operation.kind}) computes nothing, or its own input")
        if len(inputs) < (least := LEAST_INPUTS.get(operation.kind, 0)) or min(inputs[:least], default=0) < 0:
            raise CorruptFileError(
                f"operation {operation.index} ({operation.kind}) has {len(inputs)} inputs, not {least}"
            )
        if operation.kind.endswith("CONV_2D") and len(self._tensors[inputs[1]].shape) != KERNEL_AXES:
            raise CorruptFileError(
                f"operation {operation.index} ({operation.kind}) has a kernel without {KERNEL_AXES} axes"
            )
        if operation.kind in FORMATS and len(inputs) == 1 and inputs[0] >= 0:
            self._alias[operation.outputs[0]] = inputs[0]
            return
        operation = Operation(
            operation.index,
            operation.kind,
            inputs,
            operation.outputs,
            operation.options,
            operation.custom,
            operation.is_custom,
        )
        self.operations.append(operation)
        self._producers.update(dict.fromkeys(operation.outputs, operation))
        for index in dict.fromkeys(inputs):
            self._consumers[index].append(operation)
