"""Known mistakes in computations: what a layer gives on the right tensors when it was built with other settings.

A mistake yields outputs, computed from the layer's own tensors on TensorFlow's input. It explains a layer whose output
equals one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig
from effdet_torch.network.bifpn import fusion_weights, max_pool_same
from verify.layers.parity import Match

EPSILON = 1e-3
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "no activation": lambda x: x,
    "swish": F.silu,
    "relu6": F.relu6,
    "relu": F.relu,
    "hswish": F.hardswish,
    "mish": F.mish,
}


class LayerRun(NamedTuple):
    """One layer: the PyTorch module, and the model's config, on TensorFlow's input and output."""

    module: Any
    config: EfficientDetConfig
    match: Match

    @property
    def features(self) -> Tensor:
        """What most layers are given, (B, C, H, W)."""
        return self.match.inputs[0]

    @property
    def activation(self) -> str:
        """What the layer ends with."""
        return self.config.activation if self.match.pair.activated else "no activation"


Outputs = Iterator[tuple[str, Tensor]]  # (words that complete "it computes with ...", what the layer then gives)


class Explanation(NamedTuple):
    """A mistake that gives what a layer gives; `remaining` is their largest difference over rms of the right output."""

    mistake: str
    words: str
    advice: str
    remaining: float


def explain_output(run: LayerRun, output: Tensor, tolerance: float) -> Explanation | None:
    """Return the first mistake that gives a layer's output (B, C, H, W) within a tolerance; None if none does."""
    expected, bias = run.match.expected, run.match.bias
    scale = float(expected.square().mean().sqrt())
    right = expected if bias is None else expected - bias
    for mistake, kinds, outputs, advice in COMPUTATIONS:
        for words, tensor in outputs(run) if run.match.pair.layer.kind in kinds else ():
            remaining, distance = (_distance(tensor, other) / scale for other in (output, right))
            if remaining <= tolerance < distance:  # an output that is right explains nothing
                return Explanation(mistake, words, advice, remaining)
    return None


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else math.inf


def _other_activations(features: Tensor, right: str, then: Callable[[Tensor], Tensor]) -> Outputs:
    for name, activation in ACTIVATIONS.items():
        if name != right:
            yield f"{name} instead of {right}", then(activation(features))


def _epsilon(run: LayerRun) -> Outputs:
    found = float(_norm(run.module).eps)
    yield f"epsilon {found:g} instead of {EPSILON:g}", ACTIVATIONS[run.activation](_normalize(run, found))


def _norm_activation(run: LayerRun) -> Outputs:
    return _other_activations(_normalize(run, EPSILON), run.activation, lambda x: x)


def _node_activation(run: LayerRun) -> Outputs:
    """Yield a node with another activation between fusion and convolution."""
    combined = run.module.combine(run.match.inputs, *run.match.expected.shape[2:])
    if run.config.conv_bn_act_pattern:
        return _other_activations(run.module.after_combine.conv(combined), run.config.activation, lambda x: x)
    return _other_activations(combined, run.config.activation, run.module.after_combine.conv)


def _gate_activation(run: LayerRun) -> Outputs:
    """Yield a squeeze-excite with another activation between its two convolutions."""
    squeezed = run.module.conv_reduce(run.features.mean((2, 3), keepdim=True))

    def excite(x: Tensor) -> Tensor:
        return run.features * torch.sigmoid(run.module.conv_expand(x))

    return _other_activations(squeezed, run.config.activation, excite)


def _normalize(run: LayerRun, epsilon: float) -> Tensor:
    norm = _norm(run.module)
    return F.batch_norm(run.features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=epsilon)


def _norm(module: Any) -> Any:
    """Return the batch norm itself; a head's lies beside its activation."""
    return module if hasattr(module, "running_mean") else module.bn


def _fusion(run: LayerRun) -> Outputs:
    """Yield a node's inputs, resampled and added as another fusion does."""
    size, weights = run.match.expected.shape[2:], run.module.edge_weights
    resampled = [layer(x, *size) for layer, x in zip(run.module.resample.values(), run.match.inputs, strict=True)]
    features = torch.stack(resampled)
    ways = {"sum": features.new_ones(len(resampled), 1)}
    if weights is not None:
        prefix, weights = "channel_" * run.module.per_channel, weights.reshape(len(resampled), -1)
        ways |= {f"{prefix}{name}": fusion_weights(weights, name == "attn") for name in ("attn", "fastattn")}
    for name, factors in ways.items():
        if name != run.config.fusion:
            yield f"{name} instead of {run.config.fusion}", (features * factors[:, None, :, None, None]).sum(dim=0)


def _padding(run: LayerRun) -> Outputs:
    """Yield a convolution with the same padding on every side; TensorFlow's SAME puts less before than after."""
    separable = hasattr(run.module, "conv_dw")
    conv = run.module.conv_dw if separable else run.module
    padding = conv.kernel_size[0] // 2
    output = F.conv2d(run.features, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
    words = f"padding of {padding} on every side instead of TensorFlow's SAME"
    yield words, run.module.conv_pw(output) if separable else output


def _order(run: LayerRun) -> Outputs:
    """Yield a feature that is pooled before its channels are brought to the BiFPN's, not after."""
    if not isinstance(run.module.conv, nn.Identity) and run.features.shape[2] > run.match.expected.shape[2]:
        pooled = max_pool_same(run.features, *run.match.expected.shape[2:])
        yield "the pooling before the convolution", run.module.conv(pooled)


CONVOLUTIONS = (
    *("conv", "conv_bias", "conv_before_bn", "depthwise"),
    *("separable", "separable_before_bn", "separable_bias"),
)
ACTIVATION, SETTINGS = "wrong activation", "build the model with the settings of the checkpoint"

# (mistake, kinds of mapping rows that it applies to, what they give then, what to do)
COMPUTATIONS: tuple[tuple[str, tuple[str, ...], Callable[[LayerRun], Outputs], str], ...] = (
    ("batch norm epsilon", ("batch_norm",), _epsilon, f"set its eps to {EPSILON:g}"),
    (ACTIVATION, ("batch_norm",), _norm_activation, SETTINGS),
    (ACTIVATION, ("node",), _node_activation, SETTINGS),
    (ACTIVATION, ("squeeze_excite",), _gate_activation, SETTINGS),
    ("fusion of the inputs", ("combine",), _fusion, SETTINGS),
    ("padding on the wrong side", CONVOLUTIONS, _padding, "pad less before than after where the total is odd"),
    ("order of pooling and convolution", ("resample",), _order, "convolve first, then pool"),
)
