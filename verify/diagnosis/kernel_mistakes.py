"""Known mistakes in the kernels of convolutions; axes: H height, W width, I input channels, O output channels.

A mistake yields candidates: the tensor as the mistake would have made it from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np

from converter.plan.ops import Array
from verify.subjects.weights import WrongTensor

# Operation -> TensorFlow's and PyTorch's order of a kernel's axes; a depthwise kernel's O is the multiplier.
RIGHT_AXES: Mapping[str, tuple[str, str]] = {
    "conv": ("HWIO", "OIHW"),
    "conv_transpose": ("HWOI", "IOHW"),
    "depthwise": ("HWIO", "IOHW"),
}


class Candidate(NamedTuple):
    """A tensor with a mistake in it.

    Attributes:
        mistake: short name.
        tensor: what the file would hold.
        found: half a sentence after "it": how the tensor differs, with the names of the TensorFlow variables.
        advice: what to do; "" for the usual.
    """

    mistake: str
    tensor: Array
    found: str
    advice: str = ""


def kernel_axes(wrong: WrongTensor) -> Iterator[Candidate]:
    """Yield the kernel with its axes in every other order, and reshaped without moving any value."""
    kernel, source, shape = wrong.sources[0], wrong.entry.sources[0], wrong.found.shape
    stored, wanted = RIGHT_AXES[wrong.entry.op_name]
    sizes = dict(zip(stored, kernel.shape, strict=True))
    right = _without_ones(wanted, sizes)
    tried = {right}  # an axis of size 1 can be anywhere
    for letters in permutations("HWIO"):
        order = _without_ones(letters, sizes)
        permuted = kernel.transpose([stored.index(letter) for letter in letters])
        if order not in tried and (permuted.shape == shape or wrong.entry.op_name == "depthwise"):
            tried.add(order)
            found = f"is {source} with axes {order}; PyTorch's are {right}"
            yield Candidate(_transposition(order, right), permuted.reshape(shape), found)
    found = f"is {source} reshaped; its axes must be permuted to {right}"
    yield Candidate("kernel not transposed", kernel.reshape(shape), found)


def _without_ones(letters: Iterable[str], sizes: Mapping[str, int]) -> str:
    return "".join(letter for letter in letters if sizes[letter] > 1)


def _transposition(order: str, right: str) -> str:
    """Name two exchanged axes by what they are, any other order as a missing transposition."""
    moved = frozenset(letter for letter, other in zip(order, right, strict=True) if letter != other)
    if moved == frozenset("IO"):
        return "input and output channels exchanged"
    exchanged = ": height and width exchanged" if moved == frozenset("HW") else ""
    return f"kernel not transposed{exchanged}"


def kernel_flips(wrong: WrongTensor) -> Iterator[Candidate]:
    """Yield the kernel flipped, and its input channels reversed."""
    ways = {(2, 3): "height and width (rotated by 180 degrees)", (2,): "height", (3,): "width"}
    for axes, words in ways.items():
        found = f"is flipped along {words}; TensorFlow and PyTorch both correlate, so kernels must not be flipped"
        yield Candidate("kernel flipped", np.flip(wrong.expected, axes), found)
    if wrong.entry.op_name == "conv":
        found = "has its input channels reversed; both networks take RGB"
        yield Candidate("input channels reversed", np.flip(wrong.expected, 1), found)
