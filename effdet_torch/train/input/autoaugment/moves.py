"""Operations of AutoAugment that move an image and its boxes: shifts, shears, rotations.

Pixels are nearest samples, and grey where the image does not reach. Box corners are truncated to whole pixels, boxes
are clipped to the image, and what leaves it becomes a sliver at its edge.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet_torch.train.input.autoaugment.pixels import GREY
from effdet_torch.train.input.example import Boxes, Pixels

SLIVER = np.float32(0.05)  # the least end and the greatest start of a box without height or width, as fractions


def shift_x(image: Pixels, pixels: float) -> Pixels:
    """Move the image to the left."""
    return _warp(image, [[1, 0, pixels], [0, 1, 0]])


def shift_y(image: Pixels, pixels: float) -> Pixels:
    """Move the image up."""
    return _warp(image, [[1, 0, 0], [0, 1, pixels]])


def shear_x(image: Pixels, level: float) -> Pixels:
    """Move each row to the left by `level` times its distance from the top."""
    return _warp(image, [[1, level, 0], [0, 1, 0]])


def shear_y(image: Pixels, level: float) -> Pixels:
    """Move each column up by `level` times its distance from the left."""
    return _warp(image, [[1, 0, 0], [level, 1, 0]])


def rotate(image: Pixels, degrees: float) -> Pixels:
    """Turn the image anticlockwise about its centre."""
    angle = np.float32(np.radians(degrees))
    cos, sin = np.cos(angle), np.sin(angle)
    height, width = np.float32(image.shape[0] - 1), np.float32(image.shape[1] - 1)
    x = (width - (cos * width - sin * height)) / np.float32(2)
    y = (height - (sin * width + cos * height)) / np.float32(2)
    return _warp(image, [[cos, -sin, x], [sin, cos, y]])


def shift_boxes_x(boxes: Boxes, image: Pixels, pixels: float) -> Boxes:
    """Move boxes as `shift_x` does; (N, 4) fractions."""
    return _shifted(boxes, image, (0, int(pixels)))


def shift_boxes_y(boxes: Boxes, image: Pixels, pixels: float) -> Boxes:
    """Move boxes as `shift_y` does; (N, 4) fractions."""
    return _shifted(boxes, image, (int(pixels), 0))


def shear_boxes_x(boxes: Boxes, image: Pixels, level: float) -> Boxes:
    """Return what surrounds boxes after `shear_x`; (N, 4) fractions."""
    return _sheared(boxes, image, [[1, 0], [-level, 1]])


def shear_boxes_y(boxes: Boxes, image: Pixels, level: float) -> Boxes:
    """Return what surrounds boxes after `shear_y`; (N, 4) fractions."""
    return _sheared(boxes, image, [[1, -level], [0, 1]])


def rotate_boxes(boxes: Boxes, image: Pixels, degrees: float) -> Boxes:
    """Return what surrounds boxes after `rotate`; (N, 4) fractions."""
    angle = np.float32(np.radians(degrees))
    size, half = _size(image), np.float32(0.5)
    centred = boxes.reshape(-1, 2, 2) - half  # (box, start or end, y or x)
    corners = _corners((size * centred).astype(np.int32) * np.array([-1, 1], np.int32))
    turned = _mapped(corners, [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = turned.astype(np.float32) / size * np.array([-1, 1], np.float32) + half
    return _clipped(turned)


def _warp(image: Pixels, matrix: list[list[float]]) -> Pixels:
    """Sample the image, for every pixel of the result, at matrix @ (x, y, 1): the first row gives x, the second y."""
    height, width = image.shape[:2]
    grid_y, grid_x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    rows = np.array(matrix, np.float32)
    x, y = (_rounded(along_x * grid_x + along_y * grid_y + start) for along_x, along_y, start in rows)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    result = image[np.where(inside, y, 0), np.where(inside, x, 0)]
    result[~inside] = GREY
    return result


def _rounded(positions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Round to the nearest whole number, and halves away from 0, as C does; NumPy rounds halves to even."""
    exact = positions.astype(np.float64)
    return np.trunc(exact + np.copysign(0.5, exact)).astype(np.int64)


def _sides(boxes: Boxes, image: Pixels) -> NDArray[np.int32]:
    """Return boxes in whole pixels: (N, 2, 2), (box, start or end, y or x)."""
    sides: NDArray[np.int32] = (boxes.reshape(-1, 2, 2) * _size(image)).astype(np.int32)
    return sides


def _size(image: Pixels) -> NDArray[np.float32]:
    return np.array(image.shape[:2], np.float32)


def _shifted(boxes: Boxes, image: Pixels, by: tuple[int, int]) -> Boxes:
    sides = _sides(boxes, image) - np.array(by, np.int32)
    return _clipped(sides.astype(np.float32) / _size(image))


def _sheared(boxes: Boxes, image: Pixels, matrix: list[list[float]]) -> Boxes:
    corners = _mapped(_corners(_sides(boxes, image)), matrix)
    return _clipped(corners.astype(np.float32) / _size(image))


def _corners(sides: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the four corners, (N, 4, 2), of boxes, (N, 2, 2)."""
    return np.stack([sides[:, [y, x], [0, 1]] for y in (0, 1) for x in (0, 1)], axis=1)


def _mapped(corners: NDArray[np.int32], matrix: list[list[float]]) -> NDArray[np.int32]:
    """Return matrix @ (y, x) of corners, (N, 4, 2), truncated to whole pixels."""
    mapped: NDArray[np.int32] = (corners.astype(np.float32) @ np.array(matrix, np.float32).T).astype(np.int32)
    return mapped


def _clipped(points: NDArray[np.float32]) -> Boxes:
    """Return the boxes around points, (N, P, 2) fractions, clipped to the image; (N, 4)."""
    low, high = (np.clip(ends, 0, 1) for ends in (points.min(axis=1), points.max(axis=1)))
    flat = high == low
    low, high = np.where(flat, np.minimum(low, 1 - SLIVER), low), np.where(flat, np.maximum(high, SLIVER), high)
    return np.concatenate((low, high), axis=1).astype(np.float32)
