"""What a TensorFlow Lite file holds: tensors, and the operations between them, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Quantization:
    """How the integers q of a tensor stand for numbers: (q - zero point) * scale.

    Attributes:
        scales: (1,) float32, or one for each index along `axis`.
        zero_points: int64, of the same length.
        axis: along which the scales differ; 0 if there is only one.
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int = 0


@dataclass(eq=False)
class Tensor:
    """One tensor; two are the same only if they are one object.

    Attributes:
        name: in the file.
        shape: images as (B, H, W, C).
        dtype: of its elements.
        value: of a constant; None for what an operation writes, and for inputs.
        quantization: of integers that stand for other numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    value: NDArray[Any] | None = None
    quantization: Quantization | None = None

    @classmethod
    def constant(cls, name: str, value: NDArray[Any]) -> Tensor:
        """Return a constant."""
        return cls(name, value.shape, value.dtype, value)


@dataclass(eq=False)
class Operation:
    """One operation.

    Attributes:
        kind: its name in the schema, "CONV_2D", or that of a custom operation.
        inputs: in the schema's order.
        outputs: in the schema's order.
        options: fields of the schema's table of options, by their names there ("strideH"), without default values; of
            a custom operation the entries of its FlexBuffer.
    """

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """One graph with one signature.

    Attributes:
        inputs: {name in the signature: tensor}.
        outputs: the tensors in the order in which the file lists them.
        output_names: of the outputs in the signature.
        operations: in the order in which they run.
        signature: its name.
        metadata: {name: bytes}, beside the graph in the file.
    """

    inputs: dict[str, Tensor]
    outputs: list[Tensor]
    output_names: list[str]
    operations: list[Operation]
    signature: str
    metadata: dict[str, bytes] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor once: inputs, then what operations read and write."""
        used = [*self.inputs.values()]
        for operation in self.operations:
            used += [*operation.inputs, *operation.outputs]
        yield from dict.fromkeys(used)
