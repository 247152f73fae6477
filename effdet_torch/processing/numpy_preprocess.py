"""Images to network input on the CPU, in NumPy: the pixels of `preprocess`, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig, Resize
from effdet_torch.errors import EffdetError
from effdet_torch.processing.sampling import image_scale, sample_positions, scaled_size

FloatArray = NDArray[np.float32]


class Axis(NamedTuple):
    """The pixels of one axis of an image that are used, and `Positions` among these."""

    used: slice | NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: FloatArray


def preprocess(images: Sequence[NDArray[np.uint8]], config: EfficientDetConfig) -> tuple[FloatArray, FloatArray]:
    """Normalise, resize and pad images of any size into one batch.

    Args:
        images: RGB, (height, width, 3) each, 0..255.
        config: supplies image size and normalization.

    Returns:
        (B, 3, H, W) float32, the network input, and (B,) or (B, 4) float32, the image scales *to the original*; see
        `preprocess` in the module of that name.

    Raises:
        EffdetError: There are no images, or one is not (height, width, 3).
    """
    require_images(images)
    batch = np.zeros((len(images), 3, *config.image_size), np.float32)
    scales, resize = list[Any](), config.resize
    for canvas, image in zip(batch, images, strict=True):
        size = image.shape[0], image.shape[1]
        height, width, scale = scaled_size(size, config.image_size, resize)
        y, x = axis(size[0], height, resize=resize), axis(size[1], width, resize=resize)
        resample(image, canvas[:, :height, :width], y, x, config)
        scales.append(image_scale(size, (height, width), scale, resize))
    return to_network_range(batch, config), np.array(scales, np.float32)


def to_network_range(canvas: FloatArray, config: EfficientDetConfig) -> FloatArray:
    """Return padded images, (..., 3, H, W), in the range of the network's input; padding is scaled with them."""
    if config.normalization == "mean_std":
        return canvas
    scaled: FloatArray = canvas * np.float32(2) / np.float32(255) - np.float32(1)
    return scaled


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


def resample(image: NDArray[np.uint8], planes: FloatArray, y: Axis, x: Axis, config: EfficientDetConfig) -> None:
    """Normalise an image, (height, width, 3), and sample it into (3, positions of y, positions of x).

    Plane by plane, which the cache holds, and horizontally first, so that a row is done once for all that need it.
    """
    image = _picked(_picked(image, y.used, 0), x.used, 1)
    for channel, plane in enumerate(planes):
        pixels = image[:, :, channel].astype(np.float32)
        if config.normalization != "advprop":
            np.subtract(pixels, np.float32(config.mean_rgb[channel]), out=pixels)
            np.divide(pixels, np.float32(config.std_rgb[channel]), out=pixels)
        rows = _between(pixels.take(x.first, axis=1), pixels.take(x.second, axis=1), x.weight)
        plane[:] = _between(rows.take(y.first, axis=0), rows.take(y.second, axis=0), y.weight[:, None])


def _picked(image: NDArray[np.uint8], used: slice | NDArray[np.int64], axis: int) -> NDArray[np.uint8]:
    if isinstance(used, slice):
        return image[used] if axis == 0 else image[:, used]
    return image.take(used, axis=axis)


def _between(start: FloatArray, end: FloatArray, weight: FloatArray) -> FloatArray:
    """Return start + (end - start) * weight, in the memory of both."""
    np.multiply(np.subtract(end, start, out=end), weight, out=end)
    return np.add(start, end, out=start)


@lru_cache(maxsize=256)
def axis(
    size: int,
    new_size: int,
    start: int = 0,
    count: int | None = None,
    flip: bool = False,
    resize: Resize = "half_pixel",
) -> Axis:
    """Return how an axis of `size` pixels is sampled for the pixels `start` to `start + count` of `new_size`.

    Args:
        size: pixels of the image.
        new_size: pixels of the whole resized image.
        start: first pixel of the part that is needed.
        count: its length; None is all of the rest.
        flip: the image is mirrored before it is resized.
        resize: see `EfficientDetConfig`.
    """
    stop = None if count is None else start + count
    positions = sample_positions(size, new_size, resize)
    first, second, weight = positions.first[start:stop], positions.second[start:stop], positions.weight[start:stop]
    if flip:
        first, second = size - 1 - first, size - 1 - second
    is_used = np.zeros(size, np.bool_)
    is_used[first] = is_used[second] = True
    used = np.flatnonzero(is_used)
    span = int(used[-1]) + 1 - int(used[0])
    if 2 * len(used) > span:  # picking them out would take longer
        return Axis(slice(int(used[0]), int(used[-1]) + 1), first - used[0], second - used[0], weight)
    return Axis(used, np.searchsorted(used, first), np.searchsorted(used, second), weight)
