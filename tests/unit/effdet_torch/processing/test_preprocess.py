"""Batches, normalisation and padding; `tests/parity/test_preprocess_golden.py` compares the pixels with TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch.config import get_config
from effdet_torch.errors import EffdetError
from effdet_torch.processing.preprocess import preprocess

CONFIG = get_config("d0", image_size=(128, 192))


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_batch_of_different_sizes_and_kinds() -> None:
    images = [_image(50, 40), _image(300, 500, 1), _image(1, 1, 2), _image(256, 384, 3)]
    images[0].flags.writeable = False
    batch, scales = preprocess([*images[:3], torch.from_numpy(images[3])], CONFIG)
    assert batch.shape == (4, 3, 128, 192)
    assert batch.dtype == scales.dtype == torch.float32
    assert scales[3] == 2.0  # to the original
    for index, image in enumerate(images):
        alone, scale = preprocess([image], CONFIG)
        assert torch.equal(batch[index], alone[0])
        assert scales[index] == scale[0]


def test_an_image_of_the_right_height_is_only_normalised_then_padded() -> None:
    image = _image(128, 100)
    pixels = preprocess([image], CONFIG)[0][0].permute(1, 2, 0).numpy()
    mean, std = (np.array(values, np.float32) for values in (CONFIG.mean_rgb, CONFIG.std_rgb))
    assert np.array_equal(pixels[:, :100], (image.astype(np.float32) - mean) / std)
    assert (pixels[:, 100:] == 0).all()


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (3, 10, 10), (0, 10, 3), None])
def test_not_an_rgb_image_and_no_image(shape: tuple[int, ...] | None) -> None:
    with pytest.raises(EffdetError, match="expected RGB" if shape else "no images"):
        preprocess([np.zeros(shape, np.uint8)] if shape else [], CONFIG)


def test_scale_range_follows_mean_deviation_and_padding() -> None:
    """((x - mean) / std) * 2 / 255 - 1, and the padding is 0 before that; AdvProp is mean 0 and deviation 1."""
    image = _image(64, 32)
    size: dict[str, Any] = {"image_size": 64, "mean_rgb": (100.0, 110.0, 120.0), "std_rgb": (50.0, 51.0, 52.0)}
    plain, _ = preprocess([image], get_config("d0", **size))
    scaled, _ = preprocess([image], get_config("d0", **size, normalization="scale_range"))
    torch.testing.assert_close(scaled, plain * 2 / 255 - 1, atol=1e-6, rtol=0)
    assert (scaled[..., 32:] == -1).all()
    advprop, _ = preprocess([image], get_config("d0", image_size=64, normalization="advprop"))
    zero: dict[str, Any] = {"image_size": 64, "mean_rgb": (0.0,) * 3, "std_rgb": (1.0,) * 3}
    assert torch.equal(preprocess([image], get_config("d0", **zero, normalization="scale_range"))[0], advprop)
