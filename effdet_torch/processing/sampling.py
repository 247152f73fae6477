"""Where a resized image is sampled, with the arithmetic of TensorFlow's resize; the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import Resize


class Arithmetic(NamedTuple):
    """How images are resized.

    Attributes:
        centre: of a pixel, from its corner, in pixels.
        side: float32 product of side and scale -> the new side.
        is_scaled_by_sides: whether detections are scaled back by the ratio of the sides, which differs from the scale
            by their rounding, in either axis.
    """

    centre: float
    side: Callable[[np.float32], Any]
    is_scaled_by_sides: bool


ARITHMETIC: Mapping[Resize, Arithmetic] = {
    "half_pixel": Arithmetic(0.5, int, is_scaled_by_sides=False),
    "legacy": Arithmetic(0.0, np.rint, is_scaled_by_sides=True),
}


class Positions(NamedTuple):
    """The source positions of n output positions along one axis, read-only.

    Attributes:
        first: (n,) int64.
        second: (n,) int64, the one behind the first or the same.
        weight: (n,) float32, of the second.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]


def scaled_size(
    size: tuple[int, int], canvas_size: tuple[int, int], resize: Resize = "half_pixel"
) -> tuple[int, int, float]:
    """Return height and width of an image on the canvas, and the scale back to the original.

    Both sizes are (height, width) in pixels. The sides are truncated or rounded float32 products, at least 1.
    """
    height, width = np.float32(size[0]), np.float32(size[1])
    scale = min(np.float32(canvas_size[0]) / height, np.float32(canvas_size[1]) / width)
    sides = (int(ARITHMETIC[resize].side(side * scale)) for side in (height, width))
    new_height, new_width = (max(1, side) for side in sides)
    return new_height, new_width, float(np.float32(1) / scale)


def image_scale(
    size: tuple[int, int], scaled: tuple[int, int], scale: float, resize: Resize
) -> float | tuple[float, float, float, float]:
    """Return what brings boxes back to an image: a scale; or the scales of x and y, and width and height on the canvas.

    Args:
        size: (height, width) of the image in pixels.
        scaled: the same on the canvas.
        scale: of the longer side, to the original.
        resize: see `EfficientDetConfig`.
    """
    if not ARITHMETIC[resize].is_scaled_by_sides:
        return scale
    (height, width), (new_height, new_width) = size, scaled
    return width / new_width, height / new_height, float(new_width), float(new_height)


@lru_cache(maxsize=256)
def sample_positions(size: int, new_size: int, resize: Resize = "half_pixel") -> Positions:
    """Return where an axis of `size` pixels is sampled for `new_size`: bilinear, no antialias."""
    half = np.float32(ARITHMETIC[resize].centre)
    position = (np.arange(new_size, dtype=np.float32) + half) * (np.float32(size) / np.float32(new_size)) - half
    first = np.floor(position)
    ends = np.maximum(first, 0).astype(np.int64), np.minimum(np.ceil(position), size - 1).astype(np.int64)
    positions = Positions(*ends, position - first)
    for array in positions:
        array.flags.writeable = False
    return positions
