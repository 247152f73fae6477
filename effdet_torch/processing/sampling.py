"""Where a resized image is sampled, with the arithmetic of TensorFlow's resize; the same on every device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


def scaled_size(size: tuple[int, int], canvas_size: tuple[int, int]) -> tuple[int, int, float]:
    """Return height and width of an image on the canvas, and the scale back to the original.

    Both sizes are (height, width) in pixels. The sides are truncated float32 products, at least 1.
    """
    height, width = np.float32(size[0]), np.float32(size[1])
    scale = min(np.float32(canvas_size[0]) / height, np.float32(canvas_size[1]) / width)
    return max(1, int(height * scale)), max(1, int(width * scale)), float(np.float32(1) / scale)


@lru_cache(maxsize=256)
def sample_positions(size: int, new_size: int) -> Positions:
    """Return where an axis of `size` pixels is sampled for `new_size`: bilinear, half-pixel centres, no antialias."""
    half = np.float32(0.5)
    position = (np.arange(new_size, dtype=np.float32) + half) * (np.float32(size) / np.float32(new_size)) - half
    first = np.floor(position)
    ends = np.maximum(first, 0).astype(np.int64), np.minimum(np.ceil(position), size - 1).astype(np.int64)
    positions = Positions(*ends, position - first)
    for array in positions:
        array.flags.writeable = False
    return positions
