"""Single layers with TensorFlow's input and output, kept in memory: to run a PyTorch layer again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from verify.layers.pairs import Pair, run_isolated
from verify.layers.parity import Match, match_layers, to_nchw, to_nhwc
from verify.reference.base import Reference
from verify.results import DType, Measures


@dataclass(frozen=True)
class Case:
    """One layer, alone.

    Attributes:
        inputs: (B, C, H, W) each, what TensorFlow gave to its layer.
        match: the same as NHWC arrays, with what TensorFlow's layer gave.
    """

    inputs: tuple[Tensor, ...]
    match: Match

    @property
    def pair(self) -> Pair:
        """Which layer."""
        return self.match.pair

    @property
    def name(self) -> str:
        """The same as `LayerResult.name`."""
        return layer_name(self.pair)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        height, width = self.match.expected.shape[1:3]
        return height, width

    def run(self, model: nn.Module) -> Tensor:
        """Return the PyTorch layer's output, (B, C, H, W)."""
        return run_isolated(self.pair, model, self.inputs, self.size)

    def measure(self, output: Tensor) -> Measures:
        """Compare an output (B, C, H, W) with TensorFlow's."""
        return self.match.measure(to_nhwc(output))

    def error(self, model: nn.Module) -> float:
        """Return max over rms of the PyTorch layer."""
        return self.measure(self.run(model)).max_over_rms


def layer_name(pair: Pair) -> str:
    """Return the TensorFlow scope of a pair, and the level where the layer serves several."""
    return pair.layer.tf if pair.level is None else f"{pair.layer.tf} (P{pair.level})"


def collect_cases(
    reference: Reference,
    pairs: Sequence[Pair],
    images: NDArray[Any],
    dtype: DType,
) -> Iterator[Case]:
    """Run the reference once and yield the layers in execution order.

    Args:
        reference: computes in `dtype`; one that shows no inputs gives no cases.
        pairs: which layers; from `layer_pairs`.
        images: (B, H, W, 3), normalised.
        dtype: "float32" or "float64".
    """
    for match in match_layers(reference.taps(images), pairs):
        if match.inputs:
            yield Case(tuple(to_nchw(array, dtype) for array in match.inputs), match)
