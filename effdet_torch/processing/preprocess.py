"""Images to network input in torch, on a GPU.

`torch.nn.functional.interpolate` weighs the same pixels, but rounds the sampling positions differently on a GPU; here
every step is one rounded float32 operation on every device, so the result does not depend on where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet_torch.config import EfficientDetConfig, Resize
from effdet_torch.processing.numpy_preprocess import require_images
from effdet_torch.processing.sampling import image_scale, sample_positions, scaled_size

RgbImage = Tensor | NDArray[Any]  # (height, width, 3)


def preprocess(
    images: Sequence[RgbImage], config: EfficientDetConfig, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise, resize and pad images of any size into one batch.

    An image keeps its aspect ratio and its top left corner; the rest of the canvas is the mean colour: 0 after
    "mean_std"; otherwise 0 before the last step, so -1. Every image is uploaded once, and nothing waits for the device.

    Args:
        images: RGB, (height, width, 3) each, 0..255, usually uint8.
        config: supplies image size and normalization.
        device: where the work is done and the results are; by default where the first image is.

    Returns:
        (B, 3, H, W) float32, the network input, and (B,) float32, the image scales *to the original*: detected
        coordinates times `image_scale` are pixels of the original image. With the "legacy" resize (B, 4): the scales of
        x and y, which differ by the rounding of the sides, then width and height of the image in the network input.

    Raises:
        EffdetError: There are no images, or one is not (height, width, 3).

    Source: EfficientDet official code, `DetectionInputProcessor`; one deviation: where an extreme aspect ratio leaves
        less than one pixel, TensorFlow fails, and here one pixel is kept.
    """
    require_images(images)
    tensors = [_as_tensor(image, device) for image in images]
    batch = torch.zeros((len(tensors), 3, *config.image_size), device=tensors[0].device)
    scales = []
    for canvas, image in zip(batch, tensors, strict=True):
        size = image.shape[0], image.shape[1]
        height, width, scale = scaled_size(size, config.image_size, config.resize)
        canvas[:, :height, :width] = _resize(image, (height, width), config)
        scales.append(image_scale(size, (height, width), scale, config.resize))
    if config.normalization != "mean_std":
        two, range_, one = _constants((2.0, 255.0, 1.0), batch.device)
        batch = batch * two / range_ - one
    return batch, torch.tensor(scales).to(batch.device, non_blocking=True)


def _as_tensor(image: RgbImage, device: torch.device | str | None) -> Tensor:
    if not isinstance(image, np.ndarray):
        return image.to(device, non_blocking=True)
    # torch warns about arrays that cannot be written to, as those of Pillow.
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device, non_blocking=True)


def _resize(image: Tensor, size: tuple[int, int], config: EfficientDetConfig) -> Tensor:
    """Normalise (height, width, 3) and resize to (3, *size) float32: bilinear, no antialias.

    Normalising the sampled pixels equals sampling the normalised image, and saves a pass over a large original.
    """
    top, bottom, y_weight = _positions(image.shape[0], size[0], config.resize, image.device)
    left, right, x_weight = _positions(image.shape[1], size[1], config.resize, image.device)

    def sample_row(y: Tensor) -> Tensor:
        row = image.index_select(0, y)
        start = _normalize(row.index_select(1, left), config)
        return start + (_normalize(row.index_select(1, right), config) - start) * x_weight

    upper = sample_row(top)
    return upper + (sample_row(bottom) - upper) * y_weight[:, None]


def _normalize(pixels: Tensor, config: EfficientDetConfig) -> Tensor:
    """Turn pixels (height, width, 3) into float32 planes (3, height, width), minus mean, over standard deviation."""
    planes = pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    if config.normalization == "advprop":
        return planes
    mean, std = (_constants(rgb, planes.device)[:, None, None] for rgb in (config.mean_rgb, config.std_rgb))
    return (planes - mean) / std


@lru_cache(maxsize=256)
def _positions(size: int, new_size: int, resize: Resize, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return `sample_positions` on a device, where they stay."""
    first, second, weight = (torch.tensor(array, device=device) for array in sample_positions(size, new_size, resize))
    return first, second, weight


@lru_cache(maxsize=16)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, where they stay; dividing by a number that is not there multiplies by its inverse."""
    return torch.tensor(values, device=device)
