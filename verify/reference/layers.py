"""TensorFlow's layers by variable scope: read the variables, compute in NHWC, yield what went in and what came out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from verify.errors import ReferenceModelError
from verify.reference.base import Tap
from verify.reference.official.hparams import Hparams

Tensor = Any  # TensorFlow is imported late and has no type stubs
Step = Generator[Tap, None, Tensor]  # yields the layers it runs, returns its result

BATCH_NORM_EPSILON = 1e-3

# act_type -> (TensorFlow, x) -> activated
ACTIVATIONS: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "swish": lambda tf, x: tf.nn.silu(x),
    "silu": lambda tf, x: tf.nn.silu(x),
    "swish_native": lambda tf, x: x * tf.sigmoid(x),
    "relu": lambda tf, x: tf.nn.relu(x),
    "relu6": lambda tf, x: tf.nn.relu6(x),
    "hswish": lambda tf, x: x * tf.nn.relu6(x + 3) / 6,
    "mish": lambda tf, x: x * tf.tanh(tf.math.softplus(x)),
}


class Layers:
    """The kinds of layers that EfficientDet is made of, eager or in a graph; taps hold tensors here.

    Args:
        tf: the TensorFlow module.
        hparams: give the activation, the form of the 3x3 convolutions, and the variant's name to errors.
        variables: {TensorFlow variable name: array or tensor}.
        dtype: "float32" or "float64".
    """

    def __init__(self, tf: Any, hparams: Hparams, variables: Mapping[str, Any], dtype: str) -> None:
        self._tf, self._hparams, self._variables, self._dtype = tf, hparams, variables, dtype

    def _conv(self, scope: str, x: Tensor, stride: int = 1, bias: bool = False) -> Step:
        y = self._tf.nn.conv2d(x, self._variable(f"{scope}/kernel"), stride, "SAME")
        if bias:
            y = self._tf.nn.bias_add(y, self._variable(f"{scope}/bias"))
        yield Tap(scope, None, (x,), y)
        return y

    def _conv_transpose(self, scope: str, x: Tensor, bias: bool = False) -> Step:
        """Double the height and width of x; the kernel is (H, W, outputs, inputs)."""
        kernel = self._variable(f"{scope}/kernel")
        size = [x.shape[0], 2 * x.shape[1], 2 * x.shape[2], kernel.shape[2]]
        y = self._tf.nn.conv2d_transpose(x, kernel, size, 2, "SAME")
        if bias:
            y = self._tf.nn.bias_add(y, self._variable(f"{scope}/bias"))
        yield Tap(scope, None, (x,), y)
        return y

    def _depthwise(self, scope: str, x: Tensor, stride: int) -> Step:
        kernel = self._variable(f"{scope}/depthwise_kernel")
        y = self._tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        yield Tap(scope, None, (x,), y)
        return y

    def _conv3x3(self, scope: str, x: Tensor) -> Tensor:
        """Convolve in the BiFPN or a head, separably or not; the bias is left to the caller."""
        if not self._hparams.separable_conv:
            return self._tf.nn.conv2d(x, self._variable(f"{scope}/kernel"), 1, "SAME")
        depthwise, pointwise = (self._variable(f"{scope}/{part}_kernel") for part in ("depthwise", "pointwise"))
        return self._tf.nn.separable_conv2d(x, depthwise, pointwise, [1, 1, 1, 1], "SAME")

    def _biased_batch_norm(self, conv: str, norm: str, x: Tensor, y: Tensor, level: int | None = None) -> Step:
        """Add a convolution's bias to its output `y` and normalise: the pair whose bias is redundant."""
        bias = self._variable(f"{conv}/bias")
        y = self._tf.nn.bias_add(y, bias)
        yield Tap(conv, level, (x,), y, bias)
        return (yield from self._batch_norm(norm, y, bias))

    def _batch_norm(self, scope: str, x: Tensor, redundant_bias: Tensor = None) -> Step:
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self._variable(f"{scope}/{leaf}") for leaf in leaves)
        if self._dtype == "float32":  # what the official code runs; TensorFlow has it in single precision only
            nn = self._tf.compat.v1.nn
            y, *_ = nn.fused_batch_norm(x, gamma, beta, mean, variance, BATCH_NORM_EPSILON, is_training=False)
        else:
            y = self._tf.nn.batch_normalization(x, mean, variance, beta, gamma, BATCH_NORM_EPSILON)
        yield Tap(scope, None, (x,), y, redundant_bias)
        return y

    def _activation(self, scope: str, x: Tensor) -> Step:
        y = ACTIVATIONS[self._hparams.act_type](self._tf, x)
        yield Tap(f"{scope}-act", None, (x,), y)
        return y

    def _variable(self, name: str) -> Tensor:
        return self._tf.cast(self._tf.convert_to_tensor(self._stored(name)), self._dtype)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._stored(name).shape)

    def _stored(self, name: str) -> Any:
        if name not in self._variables:
            raise ReferenceModelError(
                f"{name} is missing; {self._hparams.name} needs it: choose the variant of the checkpoint"
            )
        return self._variables[name]
