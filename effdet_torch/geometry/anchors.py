"""Anchors: the boxes that the network's deltas refer to."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError

if TYPE_CHECKING:
    import torch


def make_anchors_yxyx(config: EfficientDetConfig, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the anchors of all levels, in the order of the network's outputs.

    The order is level, then y, then x, then octave, then aspect ratio. The stride is image size / feature size, which
    is not an integer on odd sizes. Coordinates are computed in float64 and rounded once, which gives TensorFlow's.

    Args:
        config: supplies image size, levels, scales and aspect ratios.
        device: where the result is; the CPU by default.

    Returns:
        (A, 4) float32 as (ymin, xmin, ymax, xmax) in pixels of the network input, not clipped; a new tensor every time.

    Raises:
        UsageError: `config` is something else.

    Source: EfficientDet official code, `Anchors`.
    """
    import torch  # not needed by detectors without it

    require_type(config, EfficientDetConfig, "config", "an EfficientDetConfig, which get_config returns")
    return torch.tensor(anchors_yxyx(config), device=device)


@lru_cache(maxsize=8)
def anchors_yxyx(config: EfficientDetConfig) -> NDArray[np.float32]:
    """Return what `make_anchors_yxyx` does, as an array that several callers share and none may change."""
    scale, sizes = config.anchor_scale, config.feature_sizes().values()
    scales = scale if isinstance(scale, tuple) else (scale,) * len(sizes)
    levels = [_level_anchors_yxyx(config, size, scale) for size, scale in zip(sizes, scales, strict=True)]
    anchors = np.concatenate(levels).astype(np.float32)
    anchors.flags.writeable = False
    return anchors


def require_anchors(num_boxes: int, num_anchors: int) -> None:
    """Refuse anchors that do not fit the network's output.

    Raises:
        ConfigError: Their numbers differ.
    """
    if num_boxes != num_anchors:
        raise ConfigError(
            f"the network returned boxes for {num_boxes} anchors, but there are {num_anchors}; "
            "make the anchors for the image size of the batch"
        )


def _size_factors(aspect_ratio: float | tuple[float, float]) -> tuple[float, float]:
    """Return the factors (width, height) of an anchor's size."""
    if isinstance(aspect_ratio, tuple):
        return aspect_ratio
    return math.sqrt(aspect_ratio), 1 / math.sqrt(aspect_ratio)


def _level_anchors_yxyx(
    config: EfficientDetConfig, feature_size: tuple[int, int], anchor_scale: float
) -> NDArray[np.float64]:
    """Return one level's anchors, (height * width * anchors per location, 4) float64."""
    stride_y, stride_x = (image / feature for image, feature in zip(config.image_size, feature_size, strict=True))
    octaves = 2.0 ** (np.arange(config.num_scales) / config.num_scales)
    width_factors, height_factors = np.array([_size_factors(ratio) for ratio in config.aspect_ratios]).T
    half_height = np.outer(anchor_scale * stride_y * octaves, height_factors).ravel() / 2
    half_width = np.outer(anchor_scale * stride_x * octaves, width_factors).ravel() / 2
    y = np.arange(stride_y / 2, config.image_size[0], stride_y)[:, None, None]
    x = np.arange(stride_x / 2, config.image_size[1], stride_x)[None, :, None]
    corners = np.broadcast_arrays(y - half_height, x - half_width, y + half_height, x + half_width)
    return np.stack(corners, axis=-1).reshape(-1, 4)
