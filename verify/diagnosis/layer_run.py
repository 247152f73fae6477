"""One layer to be explained, and what all of the computations that may explain it are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet_torch.config import EfficientDetConfig

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no activation": lambda x: x,
    "swish": F.silu,
    "relu6": F.relu6,
    "relu": F.relu,
    "hard swish": F.hardswish,
    "gelu": F.gelu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class LayerRun:
    """One layer and what it is run on; (B, C, H, W) each.

    Attributes:
        module: the PyTorch layer.
        inputs: what TensorFlow gave to its layer.
        expected: what it must give.
        scale: rms that errors are relative to.
        config: of the model.
        activated: whether an activation belongs to the layer.
    """

    module: Any
    inputs: Sequence[Tensor]
    expected: Tensor
    scale: float
    config: EfficientDetConfig
    activated: bool

    @property
    def activation(self) -> str:
        """What the layer ends with."""
        return self.config.activation if self.activated else "no activation"


class Output(NamedTuple):
    """What the layer gives with a mistake in it; `words` completes "it computes with ..."."""

    words: str
    tensor: Tensor


def other_activations(features: Tensor, right: str) -> Iterator[Output]:
    """Yield features (B, C, H, W) after every activation but the right one."""
    for name, activation in ACTIVATIONS.items():
        if name != right:
            yield Output(f"{name} instead of {right}", activation(features))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding (before, after) along one axis."""
    total = max(((size - 1) // stride) * stride + kernel - size, 0)
    return total // 2, total - total // 2
