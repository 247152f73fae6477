"""Scales and zero points: how 8-bit integers stand for the numbers of a tensor.

Source: TensorFlow Lite's "8-bit quantization specification".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError, EffdetError
from effdet_torch.export.tflite.graph import Graph, Operation, Quantization, Tensor

Range = tuple[float, float]  # least and largest value
LOW, HIGH = -128, 127  # codes
# Operation -> which of its inputs have the scale and zero point of its output, because it only moves codes.
SAME_SCALE: Mapping[str, slice] = {
    "CONCATENATION": slice(None),
    "MAX_POOL_2D": slice(1),
    "RESHAPE": slice(1),
    "RESIZE_NEAREST_NEIGHBOR": slice(1),
}
# Convolution -> the axis of its output channels in the kernel: each has a scale of its own.
CHANNEL_AXES: Mapping[str, int] = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
RANGED = {*SAME_SCALE, *CHANNEL_AXES, "ADD"}  # the scale of the output is that of the range of its values
QUANTIZABLE = {*RANGED, "LOGISTIC"}
LARGEST_BIAS = 1 << 30  # as a code: an int32 holds twice that
# Of the largest scale of a kernel: what a channel below that computes is lost among the codes of the others' outputs.
LEAST_SCALE = 1e-6


def per_tensor(scale: float, zero_point: int) -> Quantization:
    """Return one scale and zero point."""
    return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))


SIGMOID = per_tensor(1 / 256, LOW)  # the kernel of LOGISTIC has no other


def of_range(least: float, largest: float) -> Quantization:
    """Return the quantization of a tensor with values in a range; 0 is always one of the codes.

    Raises:
        EffdetError: The range holds nothing but 0, or is not finite.
    """
    low, high = min(least, 0.0), max(largest, 0.0)
    scale = (high - low) / (HIGH - LOW)
    if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        raise EffdetError(f"its values lie between {least:g} and {largest:g}; expected a range above 0, and finite")
    return per_tensor(scale, int(np.clip(_rounded(LOW - low / scale), LOW, HIGH)))


def of_pixels(config: EfficientDetConfig) -> Quantization:
    """Return the quantization of the network's input as int8, whose codes are pixel values less 128.

    Raises:
        ConfigError: The model normalises pixels in another way, so that no scale and zero point stand for it.
    """
    means, deviations = set(config.mean_rgb), set(config.std_rgb)
    mean = min(means)
    is_code = mean % 1 == 0 and 0 <= mean <= HIGH - LOW
    if config.normalization != "mean_std" or len(means) > 1 or len(deviations) > 1 or not is_code:
        raise ConfigError(
            "an int8 file takes pixels as they are, so one scale and zero point must stand for their normalisation; "
            f"this model has {config.normalization}, mean {config.mean_rgb}, deviation {config.std_rgb}; expected "
            "mean_std with one whole mean, 0 to 255, and one deviation for all colours, as in the lite variants. Leave "
            "out --int8"
        )
    return per_tensor(1 / min(deviations), int(mean) + LOW)


def of_activations(graph: Graph, ranges: Mapping[Tensor, Range], image: Quantization) -> dict[Tensor, Quantization]:
    """Return the quantization of the image and of every float tensor that an operation writes and another one reads.

    Args:
        graph: in float32.
        ranges: of these tensors.
        image: of the image.

    Raises:
        EffdetError: The range of a tensor cannot be quantised.
    """
    found: dict[Tensor, Quantization] = dict.fromkeys(graph.inputs.values(), image)
    written = [x for operation in graph.operations if operation.kind in RANGED for x in operation.outputs]
    for group in _groups(graph.operations, written):
        least, largest = (pick(ranges[tensor][end] for tensor in group) for end, pick in ((0, min), (1, max)))
        try:
            quantization = of_range(least, largest)
        except EffdetError as error:
            raise EffdetError(
                f"{group[0].name!r} cannot be quantised: {error}. Calibrate with photos like those that the model was "
                "trained on"
            ) from error
        found |= dict.fromkeys(group, quantization)
    sigmoids = [x for operation in graph.operations if operation.kind == "LOGISTIC" for x in operation.outputs]
    return found | dict.fromkeys(sigmoids, SIGMOID)


def _groups(operations: Iterable[Operation], written: Iterable[Tensor]) -> list[list[Tensor]]:
    """Divide tensors into groups with one scale each."""
    group_of = {tensor: [tensor] for tensor in written}
    for operation in operations:
        if operation.kind in SAME_SCALE:
            for tensor in operation.inputs[SAME_SCALE[operation.kind]]:
                own, other = group_of[operation.outputs[0]], group_of[tensor]
                if own is not other:
                    own += other
                    group_of |= dict.fromkeys(other, own)
    return list({id(group): group for group in group_of.values()}.values())


def of_kernel(
    kernel: NDArray[np.float32], axis: int, biases: Iterable[tuple[NDArray[np.float32], float]]
) -> Quantization:
    """Return a scale for each output channel of a kernel: the largest of its absolute values becomes 127.

    Args:
        kernel: of a convolution.
        axis: of its output channels.
        biases: of every convolution that uses it, (channels,), with the scale of its input: their codes have the scale
            of the input times that of the kernel, and must fit.
    """
    others = tuple(number for number in range(kernel.ndim) if number != axis)
    scales = np.abs(kernel).max(axis=others).astype(np.float64) / HIGH
    scales = np.maximum(scales, LEAST_SCALE * scales.max(initial=0))
    for bias, input_scale in biases:
        scales = np.maximum(scales, np.abs(bias).astype(np.float64) / (LARGEST_BIAS * input_scale))
    scales[scales == 0] = 1
    return Quantization(scales.astype(np.float32), np.zeros(len(scales), np.int64), axis)


def of_bias(input_scale: np.float32, kernel: Quantization) -> Quantization:
    """Return the quantization of a bias, so that its codes can be added to those of the products."""
    return Quantization(input_scale * kernel.scales, np.zeros_like(kernel.zero_points), 0)


def encode(values: NDArray[np.float32], quantization: Quantization, least: int, largest: int) -> NDArray[np.int64]:
    """Return the codes of values, from `least` to `largest`."""
    shape = [1] * values.ndim
    shape[quantization.axis] = -1
    codes = _rounded(values / quantization.scales.reshape(shape).astype(np.float64))
    return np.clip(codes + quantization.zero_points.reshape(shape), least, largest).astype(np.int64)


def _rounded(values: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Round halves away from 0, as C's `round` does."""
    return np.asarray(np.sign(values) * np.floor(np.abs(values) + 0.5))
