"""All anchors of a network, as exported graphs hold them, traced back to the hyperparameters that generate them.

Corners in pixels, (y_min, x_min, y_max, x_max), one row for each anchor: level, y, x, octave, aspect ratio.

Source: the official code's `anchors.Anchors`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DECIMALS = 4  # of hyperparameters
_TOLERANCE = 5e-3  # pixels: corners are float32 numbers of up to some thousand

Floats = NDArray[np.float64]


class Level(NamedTuple):
    """One level: cells down and across, image size (height, width), and the anchors of a cell.

    Attributes:
        sizes: square root of the area of every anchor, in strides.
        ratios: width to height of every anchor, in strides.
    """

    cells: tuple[int, int]
    image_size: tuple[float, float]
    sizes: Floats
    ratios: Floats


def explain_anchors(boxes: NDArray[Any]) -> dict[str, Any] | None:
    """Return the official hyperparameters that generate exactly these anchors; None if none do.

    Args:
        boxes: (anchors, 4).
    """
    if boxes.ndim != 2 or boxes.dtype.kind != "f" or not np.isfinite(boxes).all():
        return None
    corners = boxes.astype(np.float64)
    levels: list[Level] = []
    start = 0
    while start < len(corners):
        level = _read_level(corners[start:], len(levels[0].sizes) if levels else None)
        if level is None:
            return None
        levels.append(level)
        start += level.cells[0] * level.cells[1] * len(level.sizes)
    if not levels:
        return None
    found = hparams_of_levels(levels)
    return found if found and np.abs(generate(levels, found) - corners).max() < _TOLERANCE else None


def _read_level(corners: Floats, per_cell: int | None) -> Level | None:
    """Return the level that rows begin with."""
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    stride = 2 * centres[0]
    if (stride <= 0).any() or (sides <= 0).any():
        return None
    if per_cell is None:
        per_cell = _leading(np.abs(centres - centres[0]).max(axis=1) < _TOLERANCE)
    in_row = _leading(np.abs(centres[:, 0] - centres[0, 0]) < _TOLERANCE)
    across = in_row // per_cell
    rows = centres[:: max(1, in_row), 0]
    expected = stride[0] * (np.arange(len(rows)) + 0.5)
    down = _leading(np.abs(rows - expected) < _TOLERANCE * (1 + np.arange(len(rows))))
    if across == 0 or in_row % per_cell or down * in_row > len(corners):
        return None
    relative = sides[:per_cell] / stride
    size = (down * stride[0], across * stride[1])
    return Level((down, across), size, np.sqrt(relative.prod(axis=1)), relative[:, 1] / relative[:, 0])


def _leading(fits: NDArray[np.bool_]) -> int:
    """Return how many of the first values are true."""
    return len(fits) if fits.all() else int(np.argmin(fits))


def hparams_of_levels(levels: list[Level], decimals: int = _DECIMALS) -> dict[str, Any] | None:
    """Return the hyperparameters that the first cells of all levels show, rounded; None if octaves do not repeat."""
    first = levels[0]
    per_cell = len(first.sizes)
    ratios_count = _leading(np.abs(first.sizes / first.sizes[0] - 1) < 10**-decimals)
    if per_cell % ratios_count:
        return None
    scales = [_rounded(level.sizes[0], decimals) for level in levels]
    height, width = (round(side) for side in first.image_size)
    return {
        "anchor_scale": scales[0] if len(set(scales)) == 1 else scales,
        "aspect_ratios": [_rounded(ratio, decimals) for ratio in first.ratios[:ratios_count]],
        "num_scales": per_cell // ratios_count,
        "image_size": height if height == width else f"{width}x{height}",
    }


def _rounded(value: Any, decimals: int) -> float:
    return round(float(value), decimals)


def generate(levels: list[Level], hparams: dict[str, Any]) -> Floats:
    """Return the anchors of hyperparameters: (anchors, 4)."""
    scales = np.broadcast_to(np.asarray(hparams["anchor_scale"], np.float64), len(levels))
    ratios, octaves = np.asarray(hparams["aspect_ratios"]), hparams["num_scales"]
    height, width = (round(side) for side in levels[0].image_size)
    found = []
    for level, scale in zip(levels, scales, strict=True):
        stride = np.array([height / level.cells[0], width / level.cells[1]])
        grid = np.stack(np.meshgrid(*(np.arange(count) + 0.5 for count in level.cells), indexing="ij"), axis=-1)
        # (ratios, 2): height, width; a pair is (width, height).
        shape = ratios[:, ::-1] if ratios.ndim == 2 else np.stack([1 / np.sqrt(ratios), np.sqrt(ratios)], axis=-1)
        octave = 2 ** (np.arange(octaves) / octaves)
        half = scale * stride * octave[:, None, None] * shape / 2  # (octaves, ratios, 2)
        centres = (grid * stride)[:, :, None, None, :]
        found.append(np.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4))
    return np.concatenate(found)
