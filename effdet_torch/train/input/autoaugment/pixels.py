"""Operations of AutoAugment that change colours only.

All take and return (height, width, 3) uint8. Where official code rounds intermediate floating-point values, results may
differ from it by one level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet_torch.train.input.example import Pixels

GREY = 128  # the colour of what an operation leaves empty
SOLARIZED_BELOW = 128
MOST_SHIFT = 7  # keeping no bit at all keeps the highest one, as TensorFlow's shift does
GREY_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)
VALUES = np.arange(256)  # of a pixel


def auto_contrast(image: Pixels) -> Pixels:
    """Stretch each channel to 0..255."""
    return _by_channel(image, [_stretched(channel) for channel in _channels(image)])


def equalize(image: Pixels) -> Pixels:
    """Spread the values of each channel evenly over 0..255."""
    return _by_channel(image, [_equalized(channel) for channel in _channels(image)])


def posterize(image: Pixels, bits: int) -> Pixels:
    """Keep only the highest bits."""
    shift = min(8 - bits, MOST_SHIFT)
    return _table(VALUES >> shift << shift)[image]


def solarize(image: Pixels, threshold: int) -> Pixels:
    """Invert values from a threshold on."""
    return _table(np.where(np.less(VALUES, threshold), VALUES, 255 - VALUES))[image]


def solarize_add(image: Pixels, addition: int) -> Pixels:
    """Add to dark values."""
    return _table(np.where(VALUES < SOLARIZED_BELOW, VALUES + addition, VALUES))[image]


def color(image: Pixels, factor: float) -> Pixels:
    """Change the saturation: 0 is grey, 1 the image."""
    return _blend(grey(image)[:, :, None].astype(np.float32), image, factor)


def contrast(image: Pixels, factor: float) -> Pixels:
    """Change the contrast: 0 is the image's mean grey, truncated; 1 the image."""
    return _blend(np.floor(grey(image).mean(), dtype=np.float32), VALUES, factor)[image]


def brightness(image: Pixels, factor: float) -> Pixels:
    """Change the brightness: 0 is black, 1 the image."""
    return _blend(np.float32(0), VALUES, factor)[image]


def sharpness(image: Pixels, factor: float) -> Pixels:
    """Change the sharpness: 0 is smoothed, 1 the image. The outermost pixels are kept."""
    if min(image.shape[:2]) < 3:
        return image
    wide = image.astype(np.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    result: Pixels = image.copy()
    result[1:-1, 1:-1] = _blend((total // 13).astype(np.float32), image[1:-1, 1:-1], factor)
    return result


def grey(image: Pixels) -> Pixels:
    """Return the brightness, (height, width) uint8."""
    scaled = image.astype(np.float32) * np.float32(1 / 255)
    return _table(scaled @ GREY_WEIGHTS * np.float32(255.5))


def _blend(base: NDArray[np.float32] | np.float32, image: NDArray[np.integer], factor: float) -> Pixels:
    """Return base + factor * (image - base), beyond the image if the factor is above 1."""
    return _table(base + np.float32(factor) * (image.astype(np.float32) - base))


def _table(values: NDArray[np.integer] | NDArray[np.float32]) -> Pixels:
    table: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return table


def _channels(image: Pixels) -> list[Pixels]:
    return [image[:, :, channel] for channel in range(3)]


def _by_channel(image: Pixels, tables: list[Pixels]) -> Pixels:
    """Replace the values of each channel by those of its table, (256,)."""
    return np.stack([table[channel] for table, channel in zip(tables, _channels(image), strict=True)], axis=2)


def _stretched(channel: Pixels) -> Pixels:
    low, high = np.float32(channel.min()), np.float32(channel.max())
    if high <= low:
        return VALUES.astype(np.uint8)
    scale = np.float32(255) / (high - low)
    return _table(VALUES.astype(np.float32) * scale - low * scale)


def _equalized(channel: Pixels) -> Pixels:
    counts = np.bincount(channel.reshape(-1), minlength=256)
    step = (counts.sum() - counts[counts != 0][-1]) // 255
    if step == 0:
        return VALUES.astype(np.uint8)
    below = np.concatenate(([0], np.cumsum(counts)[:-1]))
    table = _table((below + step // 2) // step)
    table[0] = 0
    return table
