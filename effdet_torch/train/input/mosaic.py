"""Mosaic: four images in one, around a point near the middle.

Not a part of the official training: its code has it, but nothing there uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from effdet_torch.train.input.example import Boxes, Example, Pixels

SHARE = 0.5  # of the images; the others keep their aspect ratio and their size
PARTS = 4


def dividing_point(size: tuple[int, int], random: np.random.Generator) -> tuple[int, int]:
    """Return where the images meet, (y, x): anywhere in the middle half of (height, width)."""
    y, x = (int(random.uniform(side * 0.25, side * 0.75)) for side in size)
    return max(1, y), max(1, x)


def mosaic(parts: Sequence[Example], size: tuple[int, int], point: tuple[int, int]) -> Example:
    """Put four images into one; they lose their aspect ratio.

    Args:
        parts: top left, bottom left, top right, bottom right.
        size: (height, width) of the result in pixels, both at least 2.
        point: (y, x) where they meet, inside the result.
    """
    image, boxes = np.empty((*size, 3), np.uint8), []
    rows, columns = ((0, point[0]), (point[0], size[0])), ((0, point[1]), (point[1], size[1]))
    places = [(row, column) for column in columns for row in rows]
    for part, ((top, bottom), (left, right)) in zip(parts, places, strict=True):
        image[top:bottom, left:right] = _resized(part.image, bottom - top, right - left)
        boxes.append(_moved(part.boxes, (top, left), (bottom - top, right - left), size))
    return Example(image, np.concatenate(boxes), np.concatenate([part.labels for part in parts]))


def _resized(image: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _moved(boxes: Boxes, corner: tuple[int, int], part: tuple[int, int], size: tuple[int, int]) -> Boxes:
    """Return boxes, (N, 4) as fractions of a part, as fractions of the whole."""
    scale, start, whole = (np.array([*pair, *pair], np.float32) for pair in (part, corner, size))
    moved: Boxes = (boxes * scale + start) / whole
    return moved
