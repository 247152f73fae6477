"""GridMask: a grid of black rectangles, turned a little; the boxes stay.

Source: GridMask Data Augmentation (arXiv:2001.04086), with the numbers of the official code.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effdet_torch.train.input.example import Pixels

THRESHOLD = 0.5  # official: a normally distributed number is below it, which is so in 69 % of the cases
KEPT = 0.6  # of every row and column of the grid
DEGREES = 10.0


def grid_mask(image: Pixels, random: np.random.Generator) -> Pixels:
    """Black out a grid in an image, (height, width, 3) uint8, or not."""
    if random.normal() >= THRESHOLD:
        return image
    return image * _kept(image.shape[0], image.shape[1], random)[:, :, None]


def _kept(height: int, width: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return 1 where the image is kept and 0 where rows and columns of the grid both have their gap."""
    low, high = sorted((int(height * 0.5), int(width * 0.3)))
    block = max(2, int(random.integers(low, max(high, low + 1))))
    band = min(max(1, round(block * KEPT)), block - 1)
    angle = math.radians(DEGREES * random.normal(-1, 1))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(height / 2)
    x = np.arange(width, dtype=np.float32) - np.float32(width / 2)
    start_y, start_x = np.float32(random.uniform(0, block, 2))
    in_row = (cos * y - sin * x - start_y) % block < band
    in_column = (sin * y + cos * x - start_x) % block < band
    kept: NDArray[np.uint8] = (in_row | in_column).view(np.uint8)
    return kept
