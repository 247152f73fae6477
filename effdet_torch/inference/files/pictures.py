"""Pictures that a run writes beside its results: drawings, masks and crops."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet_torch.errors import OverwriteError
from effdet_torch.inference.files.places import Places, mask_path
from effdet_torch.inference.results.detections import Detections
from effdet_torch.inference.results.saved import save_picture
from effdet_torch.inference.results.visualize import draw_detections
from effdet_torch.outputs.paths import NEXT_STEP


def save_pictures(pixels: NDArray[np.uint8], found: Detections, place: Places, others: Collection[Path]) -> None:
    """Write the drawing of an image, its mask and its crops, as far as they have a place.

    Args:
        pixels: (height, width, 3), RGB, 0..255, upright if EXIF was applied.
        found: in pixels of the image.
        place: where they go.
        others: files of the run that no crop may replace, without links.

    Raises:
        OverwriteError: A crop would replace one of `others`.
        OutputError: A picture cannot be written.
    """
    if place.drawing is not None:
        if found.mask is not None:
            save_picture(Image.fromarray(found.mask), mask_path(place.drawing))
        save_picture(draw_detections(pixels, found), place.drawing)
    for path, box_xyxy in zip(place.crop_paths(found.names), found.boxes_xyxy.tolist(), strict=False):
        if path.resolve() in others:
            raise OverwriteError(f"--crops {path} would overwrite another file of the run; {NEXT_STEP}")
        crop = cropped(pixels, box_xyxy)
        if crop.size:  # a box beside the image, or without an area, has none
            save_picture(Image.fromarray(np.ascontiguousarray(crop)), path)


def cropped(pixels: NDArray[np.uint8], box_xyxy: list[float]) -> NDArray[np.uint8]:
    """Return the pixels (h, w, 3) of an image that a box (xmin, ymin, xmax, ymax) touches; none if it lies beside."""
    height, width = pixels.shape[:2]
    limits = zip(box_xyxy, (width, height, width, height), strict=True)
    left, top, right, bottom = (min(max(0.0, value), limit) for value, limit in limits)  # of a NaN: 0
    return pixels[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)]
