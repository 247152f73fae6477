"""Known mistakes in computations: what a layer gives on the right tensors when it was built with other settings.

A mistake yields the ways to compute a layer, from its own tensors on TensorFlow's input. It explains a layer whose
output equals one of them, while TensorFlow's equals another or none.
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


Ways = Iterator[tuple[str, Tensor]]  # (words that complete "it computes with ...", what the layer then gives)


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
    for mistake, kinds, ways, advice in COMPUTATIONS:
        tensors = dict(ways(run)) if run.match.pair.layer.kind in kinds else {}
        found = {way: _distance(tensor, output) / scale for way, tensor in tensors.items()}
        wanted = {way: _distance(tensor, right) / scale for way, tensor in tensors.items()}
        given = min(found, key=lambda way: found[way], default="")
        # An output that is right explains nothing, and one that is wrong must differ from what would be right.
        others = [way for way, distance in wanted.items() if distance <= tolerance]
        if given and found[given] <= tolerance < wanted[given]:
            words = f"{given} instead of {others[0]}" if others else given
            return Explanation(mistake, words, advice, found[given])
    return None


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape else math.inf


def _activations(features: Tensor, then: Callable[[Tensor], Tensor] = lambda x: x) -> Ways:
    for name, activation in ACTIVATIONS.items():
        yield name, then(activation(features))


def _epsilon(run: LayerRun) -> Ways:
    found = float(_norm(run.module).eps)
    if found != EPSILON:
        for epsilon in (found, EPSILON):
            yield f"epsilon {epsilon:g}", ACTIVATIONS[run.activation](_normalize(run, epsilon))


def _norm_activation(run: LayerRun) -> Ways:
    return _activations(_normalize(run, EPSILON))


def _node_activation(run: LayerRun) -> Ways:
    """Yield a node with every activation between fusion and convolution, or after the batch norm."""
    combined = run.module.combine(run.match.inputs, *run.match.expected.shape[2:])
    if run.config.conv_bn_act_pattern:
        return _activations(run.module.after_combine.conv(combined))
    return _activations(combined, run.module.after_combine.conv)


def _gate_activation(run: LayerRun) -> Ways:
    """Yield a squeeze-excite with every activation between its two convolutions."""
    squeezed = run.module.conv_reduce(run.features.mean((2, 3), keepdim=True))

    def excite(x: Tensor) -> Tensor:
        return run.features * torch.sigmoid(run.module.conv_expand(x))

    return _activations(squeezed, excite)


def _normalize(run: LayerRun, epsilon: float) -> Tensor:
    norm = _norm(run.module)
    return F.batch_norm(run.features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=epsilon)


def _norm(module: Any) -> Any:
    """Return the batch norm itself; a head's lies beside its activation."""
    return module if hasattr(module, "running_mean") else module.bn


def _fusion(run: LayerRun) -> Ways:
    """Yield a node's inputs, resampled and added in every way."""
    size, weights = run.match.expected.shape[2:], run.module.edge_weights
    resampled = [layer(x, *size) for layer, x in zip(run.module.resample.values(), run.match.inputs, strict=True)]
    features = torch.stack(resampled)
    ways = {"sum": features.new_ones(len(resampled), 1)}
    if weights is not None:
        prefix, weights = "channel_" * run.module.per_channel, weights.reshape(len(resampled), -1)
        ways |= {f"{prefix}{name}": fusion_weights(weights, name == "attn") for name in ("attn", "fastattn")}
    for name, factors in ways.items():
        yield name, (features * factors[:, None, :, None, None]).sum(dim=0)


def _padding(run: LayerRun) -> Ways:
    """Yield a convolution with the same padding on every side; TensorFlow's SAME puts less before than after."""
    separable = hasattr(run.module, "conv_dw")
    conv = run.module.conv_dw if separable else run.module
    padding = conv.kernel_size[0] // 2
    output = F.conv2d(run.features, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
    words = f"padding of {padding} on every side instead of TensorFlow's SAME"
    yield words, run.module.conv_pw(output) if separable else output


def _transpose_padding(run: LayerRun) -> Ways:
    """Yield a transposed convolution without its first row and column; TensorFlow's SAME leaves out the last ones."""
    module = run.module
    output = F.conv_transpose2d(run.features, module.weight, module.bias, module.stride, 1, output_padding=1)
    yield "padding=1, output_padding=1 instead of TensorFlow's SAME", output


def _order(run: LayerRun) -> Ways:
    """Yield a feature that is pooled before its channels are brought to the BiFPN's, and after."""
    size = run.match.expected.shape[2:]
    if not isinstance(run.module.conv, nn.Identity) and run.features.shape[2] > size[0]:
        yield "the pooling before the convolution", run.module.conv(max_pool_same(run.features, *size))
        yield "the convolution before the pooling", max_pool_same(run.module.conv(run.features), *size)


CONVOLUTIONS = (
    *("conv", "conv_bias", "conv_before_bn", "depthwise"),
    *("separable", "separable_before_bn", "separable_bias"),
)
ACTIVATION, SETTINGS = (
    "wrong activation",
    "build the model with the settings of the checkpoint: config.yaml or --hparams",
)

# (mistake, kinds of mapping rows that it applies to, what they give then, what to do)
COMPUTATIONS: tuple[tuple[str, tuple[str, ...], Callable[[LayerRun], Ways], str], ...] = (
    ("batch norm epsilon", ("batch_norm",), _epsilon, f"set its eps to {EPSILON:g}"),
    (ACTIVATION, ("batch_norm",), _norm_activation, SETTINGS),
    (ACTIVATION, ("node",), _node_activation, SETTINGS),
    (ACTIVATION, ("squeeze_excite",), _gate_activation, SETTINGS),
    ("fusion of the inputs", ("combine",), _fusion, SETTINGS),
    ("padding on the wrong side", CONVOLUTIONS, _padding, "pad less before than after where the total is odd"),
    (
        "padding on the wrong side",
        ("conv_transpose", "conv_transpose_bias"),
        _transpose_padding,
        "without any padding, leave out the last row and column",
    ),
    ("order of pooling and convolution", ("resample",), _order, SETTINGS),
)
