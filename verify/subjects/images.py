"""The images that both networks run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.inference.images import read_image
from effdet_torch.processing.numpy_preprocess import preprocess

MAX_DEFAULT_PIXELS = 512  # side of a square; the weights do not depend on the image size, time and memory do


def network_input(
    config: EfficientDetConfig, image: Path | None, image_size: tuple[int, int] | None, seed: int
) -> NDArray[Any]:
    """Return images (1, H, W, 3), float32, normalised.

    Args:
        config: of the model.
        image: a photograph; None takes normally distributed noise.
        image_size: (height, width); None takes the model's if it has no more pixels than 512 x 512, else its sides cut
            to 512.
        seed: of the noise.
    """
    height, width = image_size or _default_size(config.image_size)
    config = replace(config, image_size=(height, width))
    if image is None:
        return np.random.default_rng(seed).standard_normal((1, height, width, 3), np.float32)
    batch, _ = preprocess([read_image(image)], config)
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1))


def _default_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height * width <= MAX_DEFAULT_PIXELS**2:
        return size
    return min(height, MAX_DEFAULT_PIXELS), min(width, MAX_DEFAULT_PIXELS)
