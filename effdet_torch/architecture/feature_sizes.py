"""What follows from the size of an image: the sizes of the feature maps on every level, without torch.

TorchScript compiles these functions as a part of the model, hence the plain integers.
"""

from __future__ import annotations

from effdet_torch.errors import ConfigError


def feature_sizes(height: int, width: int, min_level: int, max_level: int) -> dict[int, tuple[int, int]]:
    """Return {level: (height, width)} of the feature maps for an image; every level halves, rounding up.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        min_level: finest level to return.
        max_level: coarsest level to return.

    Raises:
        ConfigError: A level could halve only one side, because the other has one row left; the official code refuses
            this too.
    """
    sizes: dict[int, tuple[int, int]] = {}
    rows, columns = height, width
    for level in range(1, max_level + 1):
        next_rows, next_columns = (rows + 1) // 2, (columns + 1) // 2
        if level > min_level and bool(next_rows < rows) != bool(next_columns < columns):
            raise ConfigError(
                f"image size {width}x{height} (width x height) is too small for levels {min_level} to {max_level}: "
                f"P{level - 1} is {columns}x{rows} and only one side can be halved; "
                f"use at least {(1 << (max_level - 1)) + 1} pixels per side"
            )
        rows, columns = next_rows, next_columns
        if level >= min_level:
            sizes[level] = (rows, columns)
    return sizes


def require_doubling(sizes: dict[int, tuple[int, int]]) -> None:
    """Check that every level has twice the rows and columns of the next one, as a segmentation head makes them.

    Args:
        sizes: {level: (height, width)}, see `feature_sizes`.

    Raises:
        ConfigError: A level has an odd number of rows or columns; the official code refuses this too.
    """
    levels = list(sizes.keys())
    for level in levels[1:]:
        rows, columns = sizes[level]
        finer_rows, finer_columns = sizes[level - 1]
        if finer_rows != 2 * rows or finer_columns != 2 * columns:
            raise ConfigError(
                f"this image size does not fit a segmentation head, which doubles every level: P{level} is "
                f"{columns}x{rows} (width x height) and P{level - 1} {finer_columns}x{finer_rows}; use sides that are "
                f"multiples of {1 << levels[-1]} pixels"
            )
