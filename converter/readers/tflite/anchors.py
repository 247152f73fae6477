"""The anchors in the detection operation, traced back to the hyperparameters that generate them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import UnsupportedSourceError
from converter.readers.tensorflow.graphs.anchor_constant import Level, generate, hparams_of_levels

# Type of the constant -> by what part of itself a number may miss the generated one: its rounding.
ROUNDINGS = {"float32": 1e-5, "float16": 6e-4}
DECIMALS = (2, 4)  # of hyperparameters: few, where those generate the same anchors

Floats = NDArray[np.float64]


def explain(
    boxes: NDArray[Any], dtype: str, image_size: tuple[int, int], cells: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Return the official hyperparameters that generate these anchors, and no others.

    Args:
        boxes: (A, 4): y and x of the centre, height, width, all divided by the image's size.
        dtype: of the constant.
        image_size: (height, width) in pixels.
        cells: (down, across) of every level, finest first.

    Raises:
        UnsupportedSourceError: No settings generate them.
    """
    counts = [down * across for down, across in cells]
    per_cell, rest = divmod(len(boxes), sum(counts))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or rest or not per_cell or not np.isfinite(boxes).all():
        raise UnsupportedSourceError(
            f"anchors of shape {boxes.shape} for levels of {', '.join(map(str, counts))} cells; expected "
            "(cells x anchors, 4)"
        )
    real = boxes.astype(np.float64)
    starts = np.cumsum([0, *counts[:-1]]) * per_cell
    levels = [
        _level(real[start : start + per_cell], image_size, size) for start, size in zip(starts, cells, strict=True)
    ]
    rounding, closest = ROUNDINGS.get(dtype, ROUNDINGS["float16"]), np.inf
    for hparams in _candidates(levels):
        expected = _centred(generate(levels, hparams), image_size)
        difference = float((np.abs(expected - real) / np.maximum(np.abs(expected), 1e-3)).max())
        if difference <= rounding:
            return {name: value for name, value in hparams.items() if name != "image_size"}
        closest = min(closest, difference)
    raise UnsupportedSourceError(
        "its anchors are not those of any anchor_scale, aspect_ratios and num_scales: the closest ones differ by "
        f"{closest:.2g} of a value, and {dtype} explains {rounding:g}"
    )


def _candidates(levels: list[Level]) -> list[dict[str, Any]]:
    """Return hyperparameters: simple ones first, then each anchor's own width and height."""
    found = [hparams_of_levels(levels, decimals) for decimals in DECIMALS]
    usual = [hparams for hparams in found if hparams and min(hparams["aspect_ratios"]) > 0]
    first = levels[0]
    roots = np.sqrt(np.maximum(first.ratios, 1e-9))
    pairs = np.stack([first.sizes * roots, first.sizes / roots], axis=-1)
    scales = [round(float(level.sizes[0] / first.sizes[0]), DECIMALS[1]) for level in levels]
    own = {
        "anchor_scale": scales[0] if len(set(scales)) == 1 else scales,
        "aspect_ratios": [[round(float(side), DECIMALS[1]) for side in pair] for pair in pairs],
        "num_scales": 1,
    }
    return [*usual, own]


def _level(first: Floats, image_size: tuple[int, int], cells: tuple[int, int]) -> Level:
    """Return a level by the anchors of its first cell."""
    strides = np.maximum(first[:, 2:] * np.array(cells), 1e-9)  # height and width in strides, which need not be square
    height, width = image_size
    return Level(cells, (float(height), float(width)), np.sqrt(strides.prod(axis=1)), strides[:, 1] / strides[:, 0])


def _centred(corners: Floats, image_size: tuple[int, int]) -> Floats:
    """Return corners (ymin, xmin, ymax, xmax) in pixels as (y, x, height, width) divided by the image's size."""
    low, high, size = corners[:, :2], corners[:, 2:], np.array(image_size, np.float64)
    return np.concatenate([(low + high) / 2 / size, (high - low) / size], axis=1)
