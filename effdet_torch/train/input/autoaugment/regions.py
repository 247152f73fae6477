"""Operations of AutoAugment on a part of the image: rectangles that are greyed out, and the contents of boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from effdet_torch.train.input.autoaugment.pixels import GREY
from effdet_torch.train.input.example import Boxes, Pixels


def cutout(image: Pixels, half_size: int, random: np.random.Generator) -> Pixels:
    """Grey out a square somewhere; `half_size` in pixels."""
    height, width = image.shape[:2]
    y, x = int(random.integers(height)), int(random.integers(width))
    return _greyed(image, y, x, half_size, half_size)


def box_cutout(image: Pixels, boxes: Boxes, share: float, random: np.random.Generator) -> Pixels:
    """Grey out a part of one box: a rectangle of `share` of its height and width, with its centre in the box."""
    if not len(boxes):
        return image
    top, left, bottom, right = _inside(boxes[int(random.integers(len(boxes)))], image)
    y, x = int(random.integers(top, bottom)), int(random.integers(left, right))
    half_sizes = (int(np.float32(share) * np.float32(side / 2)) for side in (bottom - top, right - left))
    return _greyed(image, y, x, *half_sizes)


def in_boxes(
    image: Pixels,
    boxes: Boxes,
    probability: float,
    change: Callable[[Pixels], Pixels],
    random: np.random.Generator,
) -> Pixels:
    """Change the content of each box with a probability, in any order: where boxes overlap, one works on the other."""
    result: Pixels = image.copy()
    for box in random.permutation(boxes):
        if random.random() < probability:
            top, left, bottom, right = _inside(box, image)
            result[top:bottom, left:right] = change(result[top:bottom, left:right])
    return result


def _greyed(image: Pixels, y: int, x: int, half_height: int, half_width: int) -> Pixels:
    result: Pixels = image.copy()
    result[max(0, y - half_height) : y + half_height, max(0, x - half_width) : x + half_width] = GREY
    return result


def _inside(box: Boxes, image: Pixels) -> tuple[int, int, int, int]:
    """Return the pixels of a box, (4,) fractions: (top, left, bottom, right), the last two excluded; never empty."""
    size = np.array(image.shape[:2], np.float32)
    top, left = (int(side) for side in np.minimum(box[:2] * size, size - 1))
    bottom, right = (int(side) + 1 for side in np.minimum(box[2:] * size, size - 1))
    return top, left, bottom, right
