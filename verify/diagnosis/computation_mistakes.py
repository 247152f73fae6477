"""Known mistakes in computations: what a layer gives, on the right tensors, when one of them was made.

A mistake yields outputs, computed from the layer's own tensors on TensorFlow's input. It explains a layer whose output
equals one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from verify.diagnosis.bifpn_mistakes import fusion, node_activation, resampling
from verify.diagnosis.layer_run import ACTIVATIONS, LayerRun, Output, other_activations, same_padding

EPSILON = 1e-3


class Computation(NamedTuple):
    """A mistake.

    Attributes:
        mistake: short name.
        kinds: of mapping rows that it applies to.
        outputs: what the layer may give because of it.
        advice: what to do.
    """

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


def _epsilon(run: LayerRun) -> Iterator[Output]:
    found = float(_norm(run.module).eps)
    for epsilon in dict.fromkeys((found, 1e-5, 1e-6, 1e-4, 1e-2, 0.0)):
        if epsilon != EPSILON:
            output = ACTIVATIONS[run.activation](_normalize(run, epsilon))
            yield Output(f"epsilon {epsilon:g} instead of {EPSILON:g}", output)


def _norm_activation(run: LayerRun) -> Iterator[Output]:
    yield from other_activations(_normalize(run, EPSILON), run.activation)


def _batch_statistics(run: LayerRun) -> Iterator[Output]:
    norm = _norm(run.module)
    output = F.batch_norm(run.inputs[0], None, None, norm.weight, norm.bias, True, 0.0, EPSILON)
    words = "mean and variance of the batch instead of the stored ones"
    yield Output(words, ACTIVATIONS[run.activation](output))


def _normalize(run: LayerRun, epsilon: float) -> Tensor:
    norm = _norm(run.module)
    return F.batch_norm(run.inputs[0], norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=epsilon)


def _norm(module: Any) -> Any:
    """Return the batch norm itself; a head's lies beside its activation."""
    return module if hasattr(module, "running_mean") else module.bn


def _padding(run: LayerRun) -> Iterator[Output]:
    """Yield a convolution with its padding elsewhere than SAME has it: half at the end, rounded up."""
    separable = hasattr(run.module, "conv_dw")
    conv = run.module.conv_dw if separable else run.module
    rows, columns = (
        same_padding(size, conv.kernel_size[axis], conv.stride[axis])
        for axis, size in enumerate(run.inputs[0].shape[2:])
    )
    both_sides = [conv.kernel_size[axis] // 2 for axis in (1, 1, 0, 0)]
    ways = [
        (f"padding of {both_sides[0]} on every side", both_sides, "constant"),
        ("no padding", [0, 0, 0, 0], "constant"),
        *((f"padding by {mode}", [*columns, *rows], mode) for mode in ("reflect", "replicate", "circular")),
    ]
    right = "SAME pads (top, bottom, left, right) by ({}, {}, {}, {})".format(*rows, *columns)
    for words, pads, mode in ways:
        if mode != "constant" and max(pads) >= min(run.inputs[0].shape[2:]):
            continue  # there is too little to repeat
        padded = F.pad(run.inputs[0], pads, mode=mode)
        if min(padded.shape[2:]) >= max(conv.kernel_size):
            output = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
            yield Output(f"{words}; {right}", run.module.conv_pw(output) if separable else output)


def _squeeze_excite(run: LayerRun) -> Iterator[Output]:
    gates = {name: ACTIVATIONS[name] for name in ("sigmoid", "no activation", "relu", "swish")}
    gates["hard sigmoid"] = F.hardsigmoid
    squeezed = run.module.conv_reduce(run.inputs[0].mean((2, 3), keepdim=True))
    for name, activation in ACTIVATIONS.items():
        excited = run.module.conv_expand(activation(squeezed))
        for gate_name, gate in gates.items():
            if (name, gate_name) != (run.config.activation, "sigmoid"):
                words = f"{name} inside and {gate_name} as gate instead of {run.config.activation} and sigmoid"
                yield Output(words, run.inputs[0] * gate(excited))


def _residual(run: LayerRun) -> Iterator[Output]:
    if run.inputs[0].shape == run.expected.shape:
        yield Output("no residual connection", run.expected - run.inputs[0])
        yield Output("a residual connection too many", run.expected + run.inputs[0])


CONVOLUTIONS = ("conv", "conv_bias", "conv_before_bn", "depthwise", "separable_before_bn", "separable_bias")
NORM, NODE = ("batch_norm",), ("node",)

COMPUTATIONS: tuple[Computation, ...] = (
    Computation("batch norm epsilon", NORM, _epsilon, f"set its eps to {EPSILON:g}"),
    Computation("wrong activation", NORM, _norm_activation, "give it the activation of the config"),
    Computation("batch statistics", NORM, _batch_statistics, "call model.eval()"),
    Computation("padding on the wrong side", CONVOLUTIONS, _padding, "pad as TensorFlow's SAME does"),
    Computation("squeeze-excite activation", ("squeeze_excite",), _squeeze_excite, "use the official functions"),
    Computation("residual connection", ("block",), _residual, "add the input where stride is 1 and channels are equal"),
    Computation("fusion of the inputs", ("combine",), fusion, "normalise the weights as the config's fusion says"),
    Computation("wrong activation", NODE, node_activation, "activate between fusion and convolution"),
    Computation("resampling", ("resample",), resampling, "pool and repeat pixels as the official code does"),
)
