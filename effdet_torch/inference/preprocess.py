"""Images to network input, with the arithmetic of TensorFlow's resize.

`torch.nn.functional.interpolate` weighs the same pixels, but rounds the sampling positions differently on a GPU; here
every step is one rounded float32 operation on every device, so the result does not depend on where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import EffdetError
from effdet_torch.inference.images import RgbImage


def preprocess(
    images: Sequence[RgbImage], config: EfficientDetConfig, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise, resize and pad images of any size into one batch.

    An image keeps its aspect ratio and its top left corner; the rest of the canvas is the mean colour: 0 after
    "mean_std"; otherwise 0 before the last step, so -1.

    Args:
        images: RGB, (height, width, 3) each, 0..255, usually uint8.
        config: supplies image size and normalization.
        device: where the work is done and the results are; by default where the first image is.

    Returns:
        (B, 3, H, W) float32, the network input, and (B,) float32, the image scales *to the original*: detected
        coordinates times `image_scale` are pixels of the original image.

    Raises:
        EffdetError: There are no images, or one is not (height, width, 3).

    Source: EfficientDet official code, `DetectionInputProcessor`; one deviation: where an extreme aspect ratio leaves
        less than one pixel, TensorFlow fails, and here one pixel is kept.
    """
    if not len(images):
        raise EffdetError("there are no images to preprocess; expected at least one")
    tensors = [_as_tensor(image, device) for image in images]
    batch = torch.zeros((len(tensors), 3, *config.image_size), device=tensors[0].device)
    scales = []
    for canvas, image in zip(batch, tensors, strict=True):
        height, width, image_scale = scaled_size((image.shape[0], image.shape[1]), config.image_size)
        canvas[:, :height, :width] = _resize(image, (height, width), config)
        scales.append(image_scale)
    if config.normalization != "mean_std":
        batch = batch * 2 / 255 - 1
    return batch, torch.tensor(scales, device=batch.device)


def scaled_size(size: tuple[int, int], canvas_size: tuple[int, int]) -> tuple[int, int, float]:
    """Return height and width of an image on the canvas, and the scale back to the original.

    Both sizes are (height, width) in pixels. The sides are truncated float32 products, at least 1.
    """
    height, width = np.float32(size[0]), np.float32(size[1])
    scale = min(np.float32(canvas_size[0]) / height, np.float32(canvas_size[1]) / width)
    return max(1, int(height * scale)), max(1, int(width * scale)), float(np.float32(1) / scale)


def _as_tensor(image: RgbImage, device: torch.device | str | None) -> Tensor:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise EffdetError(f"image has shape {tuple(image.shape)}; expected RGB as (height, width, 3)")
    # The copy also makes arrays writable: those of PIL are not, and torch warns about that.
    tensor = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image
    return tensor.to(device, non_blocking=True)


def _resize(image: Tensor, size: tuple[int, int], config: EfficientDetConfig) -> Tensor:
    """Normalise (height, width, 3) and resize to (3, *size) float32: bilinear, half-pixel centres, no antialias.

    Normalising the sampled pixels equals sampling the normalised image, and saves a pass over a large original.
    """
    top, bottom, y_weight = _sample_positions(image.shape[0], size[0], image.device)
    left, right, x_weight = _sample_positions(image.shape[1], size[1], image.device)

    def sample_row(y: Tensor) -> Tensor:
        row = image.index_select(0, y)
        start = _normalize(row.index_select(1, left), config)
        return start + (_normalize(row.index_select(1, right), config) - start) * x_weight

    upper = sample_row(top)
    return upper + (sample_row(bottom) - upper) * y_weight[:, None]


def _sample_positions(size: int, new_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two source positions of every output position along one axis, and the weight of the second."""
    scale = float(np.float32(size) / np.float32(new_size))
    position = (torch.arange(new_size, dtype=torch.float32, device=device) + 0.5) * scale - 0.5
    first = position.floor()
    return first.clamp(min=0).long(), position.ceil().clamp(max=size - 1).long(), position - first


def _normalize(pixels: Tensor, config: EfficientDetConfig) -> Tensor:
    """Turn pixels (height, width, 3) into float32 planes (3, height, width), minus mean, over standard deviation."""
    planes = pixels.permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    if config.normalization == "advprop":
        return planes
    mean, std = (torch.tensor(rgb, device=planes.device)[:, None, None] for rgb in (config.mean_rgb, config.std_rgb))
    return (planes - mean) / std
