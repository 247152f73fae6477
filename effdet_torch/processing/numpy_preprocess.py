"""Images to network input on the CPU, in NumPy: the pixels of `preprocess`, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import EffdetError
from effdet_torch.processing.sampling import sample_positions, scaled_size

FloatArray = NDArray[np.float32]


class _Axis(NamedTuple):
    """The pixels of one axis of an image that are used, None for all of them, and `Positions` among these."""

    used: NDArray[np.int64] | None
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: FloatArray


def preprocess(images: Sequence[NDArray[np.uint8]], config: EfficientDetConfig) -> tuple[FloatArray, FloatArray]:
    """Normalise, resize and pad images of any size into one batch.

    Args:
        images: RGB, (height, width, 3) each, 0..255.
        config: supplies image size and normalization.

    Returns:
        (B, 3, H, W) float32, the network input, and (B,) float32, the image scales *to the original*; see `preprocess`
        in the module of that name.

    Raises:
        EffdetError: There are no images, or one is not (height, width, 3).
    """
    require_images(images)
    batch = np.zeros((len(images), 3, *config.image_size), np.float32)
    scales = np.empty(len(images), np.float32)
    for index, (canvas, image) in enumerate(zip(batch, images, strict=True)):
        height, width, scales[index] = scaled_size((image.shape[0], image.shape[1]), config.image_size)
        _resize(image, canvas[:, :height, :width], config)
    if config.normalization != "mean_std":
        batch = batch * np.float32(2) / np.float32(255) - np.float32(1)
    return batch, scales


def require_images(images: Sequence[Any]) -> None:
    """Refuse what is not a row of RGB images.

    Raises:
        EffdetError: There are none, or one is not (height, width, 3).
    """
    if not len(images):
        raise EffdetError("there are no images to preprocess; expected at least one")
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise EffdetError(f"image has shape {tuple(image.shape)}; expected RGB as (height, width, 3)")


def _resize(image: NDArray[np.uint8], planes: FloatArray, config: EfficientDetConfig) -> None:
    """Normalise (height, width, 3) and resize it into (3, new height, new width).

    Plane by plane, which the cache holds, and horizontally first, so that a row is done once for all that need it.
    """
    y, x = (_axis(size, new_size) for size, new_size in zip(image.shape, planes.shape[1:], strict=False))
    image = image if y.used is None else image.take(y.used, axis=0)
    image = image if x.used is None else image.take(x.used, axis=1)
    for channel, plane in enumerate(planes):
        pixels = image[:, :, channel].astype(np.float32)
        if config.normalization != "advprop":
            np.subtract(pixels, np.float32(config.mean_rgb[channel]), out=pixels)
            np.divide(pixels, np.float32(config.std_rgb[channel]), out=pixels)
        rows = _between(pixels.take(x.first, axis=1), pixels.take(x.second, axis=1), x.weight)
        plane[:] = _between(rows.take(y.first, axis=0), rows.take(y.second, axis=0), y.weight[:, None])


def _between(start: FloatArray, end: FloatArray, weight: FloatArray) -> FloatArray:
    """Return start + (end - start) * weight, in the memory of both."""
    np.multiply(np.subtract(end, start, out=end), weight, out=end)
    return np.add(start, end, out=start)


@lru_cache(maxsize=256)
def _axis(size: int, new_size: int) -> _Axis:
    first, second, weight = sample_positions(size, new_size)
    used = np.unique(np.concatenate((first, second)))
    if 2 * len(used) > size:  # picking them out would take longer
        return _Axis(None, first, second, weight)
    return _Axis(used, np.searchsorted(used, first), np.searchsorted(used, second), weight)
