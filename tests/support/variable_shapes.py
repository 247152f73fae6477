"""Names and shapes of the official TensorFlow variables of any config, and random values for them.

Written from the model's description, not from the mapping tables, so that both can be tested against it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.architecture.backbone import Block, backbone_channels, stem_channels
from effdet_torch.architecture.pyramid import Node
from effdet_torch.config import EfficientDetConfig

Shape = tuple[int, ...]


def variable_shapes(config: EfficientDetConfig) -> dict[str, Shape]:
    """Return {name: shape} of all variables of a model, without those of training (`global_step`, EMA)."""
    backbone, channels = config.backbone, config.fpn_channels
    shapes: dict[str, Shape] = {f"{backbone}/stem/conv2d/kernel": (3, 3, 3, stem_channels(backbone))}
    shapes |= _batch_norm(f"{backbone}/stem/tpu_batch_normalization", stem_channels(backbone))
    for block in config.blocks:
        shapes |= _block(f"{backbone}/blocks_{block.flat}", block)
    if config.max_level > 5:
        shapes |= _resample("resample_p6", backbone_channels(backbone)[5], channels)
    for node in config.nodes:
        shapes |= _node(node, config)
    for head, outputs in (("class", config.num_classes), ("box", 4)) if "object_detection" in config.heads else ():
        for repeat in range(config.head_repeats):
            shapes |= _separable(f"{head}_net/{head}-{repeat}", channels, channels)
            for level in config.levels:
                shapes |= _batch_norm(f"{head}_net/{head}-{repeat}-bn-{level}", channels)
        shapes |= _separable(f"{head}_net/{head}-predict", channels, config.anchors_per_location * outputs)
    return shapes | _segmentation(config) if "segmentation" in config.heads else shapes


def random_variables(config: EfficientDetConfig, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw float32 values, each from its own stream, that keep activations in range."""
    return {name: _draw(name, shape, seed) for name, shape in variable_shapes(config).items()}


def _draw(name: str, shape: Shape, seed: int) -> NDArray[Any]:
    stream = np.random.default_rng(zlib.crc32(f"{seed}/{name}".encode()))
    if name.endswith(("gamma", "moving_variance")) or "WSM" in name:
        return stream.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("kernel"):
        fan_in = np.prod(shape[:2]) * (1 if "depthwise" in name else shape[2])
        return stream.normal(0, np.sqrt(1 / fan_in), shape).astype(np.float32)
    return stream.normal(0, 0.1, shape).astype(np.float32)


def _block(scope: str, block: Block) -> dict[str, Shape]:
    middle, squeezed = block.mid_channels, block.squeeze_excite_channels
    pointwise = [(block.in_channels, middle)] * (block.form == "inverted") + [(middle, block.out_channels)]
    shapes: dict[str, Shape] = {}
    for number, (inputs, outputs) in zip(_numbers(), pointwise, strict=False):
        shapes[f"{scope}/conv2d{number}/kernel"] = (1, 1, inputs, outputs)
    norms = [middle] * (block.form == "inverted") + [middle, block.out_channels]
    for number, channels in zip(_numbers(), norms, strict=False):
        shapes |= _batch_norm(f"{scope}/tpu_batch_normalization{number}", channels)
    shapes[f"{scope}/depthwise_conv2d/depthwise_kernel"] = (block.kernel_size, block.kernel_size, middle, 1)
    if squeezed:
        shapes |= _conv(f"{scope}/se/conv2d", middle, squeezed) | _conv(f"{scope}/se/conv2d_1", squeezed, middle)
    return shapes


def _node(node: Node, config: EfficientDetConfig) -> dict[str, Shape]:
    channels, scope = config.fpn_channels, f"fpn_cells/cell_{node.cell}/fnode{node.index}"
    combine = f"{scope}/op_after_combine{node.feature}"
    shapes = _separable(f"{combine}/conv", channels, channels) | _batch_norm(f"{combine}/bn", channels)
    for item, number in zip(node.inputs, _numbers(), strict=False):
        if config.fusion != "sum":
            shapes[f"{scope}/WSM{number}"] = ()
        if item.needs_conv:
            shapes |= _resample(
                f"{scope}/resample_{item.position}_{item.offset}_{node.feature}", item.channels, channels
            )
    return shapes


def _segmentation(config: EfficientDetConfig) -> dict[str, Shape]:
    channels, scope, last = config.fpn_channels, "segmentation_head", len(config.levels) - 1
    shapes: dict[str, Shape] = {f"{scope}/conv2d_transpose/kernel": (3, 3, channels, channels)}
    for number in range(1, last):
        shapes[f"{scope}/conv2d_transpose_{number}/kernel"] = (3, 3, channels, 2 * channels)
    for number in range(last):
        shapes |= _batch_norm(f"{scope}/bn_{number}", channels)
    shapes[f"{scope}/conv2d_transpose_{last}/kernel"] = (3, 3, config.seg_num_classes, 2 * channels)
    return {**shapes, f"{scope}/conv2d_transpose_{last}/bias": (config.seg_num_classes,)}


def _numbers() -> Iterator[str]:
    return iter(("", "_1", "_2"))


def _resample(scope: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {} if inputs == outputs else _conv(f"{scope}/conv2d", inputs, outputs) | _batch_norm(f"{scope}/bn", outputs)


def _conv(scope: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{scope}/kernel": (1, 1, inputs, outputs), f"{scope}/bias": (outputs,)}


def _separable(scope: str, inputs: int, outputs: int) -> dict[str, Shape]:
    kernels = {f"{scope}/depthwise_kernel": (3, 3, inputs, 1), f"{scope}/pointwise_kernel": (1, 1, inputs, outputs)}
    return {**kernels, f"{scope}/bias": (outputs,)}


def _batch_norm(scope: str, channels: int) -> dict[str, Shape]:
    return {f"{scope}/{leaf}": (channels,) for leaf in ("gamma", "beta", "moving_mean", "moving_variance")}
