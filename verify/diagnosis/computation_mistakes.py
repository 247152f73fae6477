"""Known mistakes in computations: what a layer gives on the right tensors when it was built with other settings.

A mistake yields outputs, computed from the layer's own tensors on TensorFlow's input. It explains a layer whose output
equals one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.bifpn import fusion_weights, max_pool_same

EPSILON = 1e-3
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no activation": lambda x: x,
    "swish": F.silu,
    "relu6": F.relu6,
    "relu": F.relu,
    "hard swish": F.hardswish,
    "mish": F.mish,
}


@dataclass(frozen=True)
class LayerRun:
    """One layer and what it runs on; tensors are (B, C, H, W).

    Attributes:
        module: the PyTorch layer.
        inputs: what TensorFlow's layer was given.
        expected: what the PyTorch layer must give.
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


class Computation(NamedTuple):
    """A mistake: short name, kinds of mapping rows that it applies to, its outputs, and what to do."""

    mistake: str
    kinds: tuple[str, ...]
    outputs: Callable[[LayerRun], Iterator[Output]]
    advice: str


class Explanation(NamedTuple):
    """A mistake that gives what a layer gives; `remaining` is the largest difference over rms of the right output."""

    computation: Computation
    words: str
    remaining: float


def explain_output(kind: str, run: LayerRun, output: Tensor, tolerance: float) -> Explanation | None:
    """Return the first mistake that gives a layer's output (B, C, H, W) within a tolerance; None if none does."""
    for computation in COMPUTATIONS:
        for words, tensor in computation.outputs(run) if kind in computation.kinds else ():
            remaining, mistake = (_distance(tensor, other) / run.scale for other in (output, run.expected))
            if remaining <= tolerance < mistake:  # an output that is right explains nothing
                return Explanation(computation, words, remaining)
    return None


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else math.inf


def _other_activations(features: Tensor, right: str, then: Callable[[Tensor], Tensor]) -> Iterator[Output]:
    for name, activation in ACTIVATIONS.items():
        if name != right:
            yield Output(f"{name} instead of {right}", then(activation(features)))


def _epsilon(run: LayerRun) -> Iterator[Output]:
    found = float(_norm(run.module).eps)
    yield Output(f"epsilon {found:g} instead of {EPSILON:g}", ACTIVATIONS[run.activation](_normalize(run, found)))


def _norm_activation(run: LayerRun) -> Iterator[Output]:
    return _other_activations(_normalize(run, EPSILON), run.activation, lambda x: x)


def _node_activation(run: LayerRun) -> Iterator[Output]:
    """Yield a node with another activation between fusion and convolution."""
    return _other_activations(run.module.combine(run.inputs), run.config.activation, run.module.after_combine.conv)


def _gate_activation(run: LayerRun) -> Iterator[Output]:
    """Yield a squeeze-excite with another activation between its two convolutions."""
    squeezed = run.module.conv_reduce(run.inputs[0].mean((2, 3), keepdim=True))

    def excite(x: Tensor) -> Tensor:
        return run.inputs[0] * torch.sigmoid(run.module.conv_expand(x))

    return _other_activations(squeezed, run.config.activation, excite)


def _normalize(run: LayerRun, epsilon: float) -> Tensor:
    norm = _norm(run.module)
    return F.batch_norm(run.inputs[0], norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=epsilon)


def _norm(module: Any) -> Any:
    """Return the batch norm itself; a head's lies beside its activation."""
    return module if hasattr(module, "running_mean") else module.bn


def _fusion(run: LayerRun) -> Iterator[Output]:
    """Yield a node's inputs, resampled and added as another fusion does."""
    size, weights = run.expected.shape[2:], run.module.edge_weights
    resampled = [layer(x, *size) for layer, x in zip(run.module.resample.values(), run.inputs, strict=True)]
    features = torch.stack(resampled)
    ways = {"sum": features.new_ones(len(resampled))}
    if weights is not None:
        ways |= {"attn": fusion_weights(weights, softmax=True), "fastattn": fusion_weights(weights, softmax=False)}
    for name, factors in ways.items():
        if name != run.config.fusion:
            yield Output(f"{name} instead of {run.config.fusion}", torch.einsum("n,nbchw->bchw", factors, features))


def _padding(run: LayerRun) -> Iterator[Output]:
    """Yield a convolution with other padding than TensorFlow's SAME: half at the end, rounded up."""
    separable = hasattr(run.module, "conv_dw")
    conv = run.module.conv_dw if separable else run.module
    right = [same_padding(run.inputs[0].shape[axis + 2], conv.kernel_size[axis], conv.stride[axis]) for axis in (0, 1)]
    for words, pad in (("the same padding on every side", conv.kernel_size[0] // 2), ("no padding", 0)):
        padded = F.pad(run.inputs[0], [pad] * 4)
        if min(padded.shape[2:]) >= max(conv.kernel_size):
            output = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
            words = f"{words}; SAME pads (before, after) rows by {right[0]} and columns by {right[1]}"
            yield Output(words, run.module.conv_pw(output) if separable else output)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding (before, after) along one axis."""
    total = max(((size - 1) // stride) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _order(run: LayerRun) -> Iterator[Output]:
    """Yield a feature that is pooled before its channels are brought to the BiFPN's, not after."""
    if not isinstance(run.module.conv, nn.Identity) and run.inputs[0].shape[2] > run.expected.shape[2]:
        yield Output("the pooling before the convolution", run.module.conv(max_pool_same(run.inputs[0])))


CONVOLUTIONS = ("conv", "conv_bias", "conv_before_bn", "depthwise", "separable_before_bn", "separable_bias")
ACTIVATION, SETTINGS = "wrong activation", "build the model with the settings of the checkpoint"

COMPUTATIONS: tuple[Computation, ...] = (
    Computation("batch norm epsilon", ("batch_norm",), _epsilon, f"set its eps to {EPSILON:g}"),
    Computation(ACTIVATION, ("batch_norm",), _norm_activation, SETTINGS),
    Computation(ACTIVATION, ("node",), _node_activation, SETTINGS),
    Computation(ACTIVATION, ("squeeze_excite",), _gate_activation, SETTINGS),
    Computation("fusion of the inputs", ("combine",), _fusion, SETTINGS),
    Computation("padding on the wrong side", CONVOLUTIONS, _padding, "pad as TensorFlow's SAME does"),
    Computation("order of pooling and convolution", ("resample",), _order, "convolve first, then pool"),
)
