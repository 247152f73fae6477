"""The operations that a network is made of, each with the options that TensorFlow's converter gives it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from effdet_torch.export.tflite.graph import Operation, Tensor
from effdet_torch.network.layers import StridedConv

SAME, VALID = 0, 1  # `padding` in the schema
NO_ACTIVATION = 0
# Activation -> its `fusedActivationFunction`, and the operation that does it alone.
FUSED: Mapping[type, tuple[int, str]] = {nn.ReLU: (1, "RELU"), nn.ReLU6: (3, "RELU6")}


@dataclass(frozen=True)
class Convolution:
    """A convolution with its constants, which several operations may share.

    Attributes:
        kernel: (O, H, W, I); of a depthwise one (1, H, W, C).
        bias: (O,).
        stride: of rows and columns.
        padding: `SAME` or `VALID`.
        is_depthwise: whether every channel has a kernel of its own.
    """

    kernel: Tensor
    bias: Tensor
    stride: int
    padding: int
    is_depthwise: bool


class Operations:
    """A list of operations that grows."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._names = Counter[str]()
        self._shared: dict[tuple[str, bytes], Tensor] = {}

    def add(self, kind: str, inputs: Sequence[Tensor], shape: tuple[int, ...], name: str, **options: Any) -> Tensor:
        """Add an operation, and return its float32 output."""
        output = Tensor(self._own(name), shape, np.dtype(np.float32))
        self.operations.append(Operation(kind, tuple(inputs), (output,), options))
        return output

    def _own(self, name: str) -> str:
        """Return a name that no other tensor has: TensorFlow's converter appends a number to the later ones as well."""
        self._names[name] += 1
        number = self._names[name] - 1
        return f"{name}{number}" if number else name

    def constant(self, name: str, value: NDArray[Any]) -> Tensor:
        """Return a new constant."""
        return Tensor.constant(self._own(name), value)

    def shared(self, name: str, value: NDArray[Any]) -> Tensor:
        """Return a constant that all who ask for this value get."""
        key = (f"{value.dtype}{value.shape}", value.tobytes())
        if key not in self._shared:
            self._shared[key] = self.constant(name, value)
        return self._shared[key]

    def convolution(self, layer: nn.Conv2d, name: str, bias_name: str, padding: int = SAME) -> Convolution:
        """Return the constants of a layer, which is padded like TensorFlow's SAME and has no batch norm behind it."""
        is_depthwise = layer.groups > 1
        assert isinstance(layer, StridedConv) or layer.stride == (1, 1)  # others pad both ends alike
        assert layer.groups in (1, layer.in_channels)
        kernel = layer.weight.detach().numpy().transpose((1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1))
        kept = self.constant(name, np.ascontiguousarray(kernel))
        if layer.bias is None:
            bias = self.shared("zeros", np.zeros(layer.out_channels, np.float32))
        else:
            bias = self.constant(bias_name, layer.bias.detach().numpy())
        return Convolution(kept, bias, layer.stride[0], padding, is_depthwise)

    def convolve(self, x: Tensor, layer: Convolution, activation: nn.Module | None = None) -> Tensor:
        """Add a convolution, and the activation behind it."""
        _, rows, columns, _ = x.shape
        shape = (1, -(-rows // layer.stride), -(-columns // layer.stride), layer.bias.shape[0])
        options = {"padding": layer.padding, "strideW": layer.stride, "strideH": layer.stride}
        if layer.is_depthwise:
            options["depthMultiplier"] = 1
        name = f"{layer.bias.name};{layer.kernel.name}"
        kind = "DEPTHWISE_CONV_2D" if layer.is_depthwise else "CONV_2D"
        return self._activated(kind, (x, layer.kernel, layer.bias), shape, name, activation, **options)

    def total(self, x: Tensor, y: Tensor, name: str, activation: nn.Module | None = None) -> Tensor:
        """Add a sum of two tensors, and the activation behind it."""
        return self._activated("ADD", (x, y), x.shape, name, activation)

    def product(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Add a product; one of the two may have fewer axes."""
        shape = max(x.shape, y.shape, key=math.prod)
        return self.add("MUL", (x, y), shape, name, fusedActivationFunction=NO_ACTIVATION)

    def _activated(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shape: tuple[int, ...],
        name: str,
        activation: nn.Module | None,
        **options: int,
    ) -> Tensor:
        fused = FUSED[type(activation)][0] if type(activation) in FUSED else NO_ACTIVATION
        output = self.add(kind, inputs, shape, name, **options, fusedActivationFunction=fused)
        return output if fused or activation is None else self.activate(output, activation)

    def activate(self, x: Tensor, activation: nn.Module) -> Tensor:
        """Add an activation that no other operation can take in."""
        if type(activation) in FUSED:
            return self.add(FUSED[type(activation)][1], (x,), x.shape, f"{x.name}/Relu")
        if isinstance(activation, nn.Hardswish):
            return self.add("HARD_SWISH", (x,), x.shape, f"{x.name}/HardSwish")
        assert isinstance(activation, nn.SiLU)
        return self.product(x, self.add("LOGISTIC", (x,), x.shape, f"{x.name}/Sigmoid"), f"{x.name}/mul_1")
