"""The operations that turn TensorFlow arrays into PyTorch tensors, each with its inverse.

Axis letters: H height, W width, I input channels, O output channels, M depth multiplier. `mappings/README.md` lists all
operations with the shapes before and after.

`fold_bias`: with y = BN(x + b) and moving mean m, BN'(x) with m' = m - b is the same function, in training mode too.
When redundant biases are kept, `expand` replaces `fold_bias` and `redundant_bias` by `keep`.

`arranged` and `arranged_conv`: another code orders the channels of a prediction differently, and multiplies what it
predicts; `Channels` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
Shapes = Sequence[Shape]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        convert: TensorFlow arrays -> PyTorch array.
        revert: (PyTorch array, TensorFlow shapes) -> TensorFlow arrays; a folded bias is not among them.
        target_shape: TensorFlow shapes -> PyTorch shape.
        is_exact: whether the inverse gives the same bits.
    """

    convert: Callable[[Sequence[Array]], Array]
    revert: Callable[[Array, Shapes], list[Array]]
    target_shape: Callable[[Shapes], Shape]
    is_exact: bool = True

    def accepts(self, shapes: Shapes) -> bool:
        """Whether sources of these shapes can be converted: the inverse must return all of them."""
        try:
            return len(self.revert(np.zeros(self.target_shape(shapes)), shapes)) == len(shapes)
        except (IndexError, ValueError):
            return False


class Channels(NamedTuple):
    """How the output channels of a prediction are arranged.

    Attributes:
        order: for each of PyTorch's channels, TensorFlow's.
        divisors: for each of PyTorch's channels, what TensorFlow's is divided by.
    """

    order: tuple[int, ...]
    divisors: tuple[float, ...]


ONE_CHANNEL = Channels((0,), (1.0,))


def _keep(shapes: Shapes) -> Shape:
    return tuple(shapes[0])


def _conv_shape(shapes: Shapes) -> Shape:
    height, width, inputs, outputs = shapes[0]
    return outputs, inputs, height, width


def _depthwise_shape(shapes: Shapes) -> Shape:
    height, width, inputs, multiplier = shapes[0]
    return inputs * multiplier, 1, height, width


def _depthwise_convert(sources: Sequence[Array]) -> Array:
    height, width, inputs, multiplier = sources[0].shape
    by_output_channel: Array = sources[0].transpose(2, 3, 0, 1).reshape(inputs * multiplier, 1, height, width)
    return by_output_channel


def _depthwise_revert(target: Array, shapes: Shapes) -> list[Array]:
    height, width, inputs, multiplier = shapes[0]
    return [target.reshape(inputs, multiplier, height, width).transpose(2, 3, 0, 1)]


def _subtract(sources: Sequence[Array]) -> Array:
    mean, bias = sources
    folded: Array = mean - bias
    return folded


CONV = Op(
    lambda sources: sources[0].transpose(3, 2, 0, 1),  # HWIO -> OIHW
    lambda target, _: [target.transpose(2, 3, 1, 0)],  # OIHW -> HWIO
    _conv_shape,
)
OPS: Mapping[str, Op] = {
    "keep": Op(lambda sources: sources[0], lambda target, _: [target], _keep),
    "conv": CONV,
    "conv_transpose": CONV,  # HWOI -> IOHW: both libraries name the kernel's axes after the convolution that it reverts
    "depthwise": Op(_depthwise_convert, _depthwise_revert, _depthwise_shape),
    "stack": Op(np.stack, lambda target, _: list(target), lambda shapes: (len(shapes), *shapes[0])),
    "column": Op(lambda sources: sources[0][:, 0], lambda target, _: [target[:, None]], lambda shapes: shapes[0][:1]),
    "fold_bias": Op(_subtract, lambda target, _: [target], _keep),
    "redundant_bias": Op(
        lambda sources: sources[0][:0], lambda _, shapes: [np.zeros(shapes[0], np.float32)], lambda _: (0,)
    ),
    "zero_count": Op(lambda _: np.zeros((), np.int64), lambda _, __: [], lambda _: ()),
}

# The same, for the operations that need to know how channels are arranged.
ARRANGED: Mapping[str, str] = {"arranged": "keep", "arranged_conv": "conv"}


@cache
def arranged(name: str, channels: Channels) -> Op:
    """Return an operation of `ARRANGED`: another one, whose results' first axis is then arranged."""
    op, order = OPS[ARRANGED[name]], np.array(channels.order)

    def divisors(array: Array) -> Array:
        return np.array(channels.divisors, array.dtype).reshape(-1, *[1] * (array.ndim - 1))

    def convert(sources: Sequence[Array]) -> Array:
        array = op.convert(sources)[order]
        divided: Array = array / divisors(array)
        return divided

    def revert(target: Array, shapes: Shapes) -> list[Array]:
        array = np.empty_like(target)
        array[order] = target * divisors(target)
        return op.revert(array, shapes)

    return Op(convert, revert, op.target_shape, is_exact=set(channels.divisors) == {1.0})
