"""An image with its objects, on its way into a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Boxes = NDArray[np.float32]  # (N, 4), (ymin, xmin, ymax, xmax) as fractions of the image


class View(NamedTuple):
    """How an image lies on the canvas; the default is how it lies there in an evaluation.

    Attributes:
        flip: whether it is mirrored, left to right.
        scale: of the canvas into which the image is fitted.
        offsets: (y, x), 0 to 1: the share of what does not fit on the canvas that is cut off above and on the left.
    """

    flip: bool = False
    scale: float = 1.0
    offsets: tuple[float, float] = (0.0, 0.0)


class Example(NamedTuple):
    """An image, its objects, and how it will lie on the canvas.

    Attributes:
        image: (height, width, 3) uint8, RGB.
        boxes: (N, 4) float32, (ymin, xmin, ymax, xmax) as fractions of the image.
        labels: (N,) int64, from 1.
        view: where it will lie.
    """

    image: Pixels
    boxes: Boxes
    labels: NDArray[np.int64]
    view: View = View()
