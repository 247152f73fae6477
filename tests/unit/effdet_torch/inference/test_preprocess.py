"""Sizes, padding and normalisation; `tests/parity` compares the pixels with TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from effdet_torch.config import get_config
from effdet_torch.errors import EffdetError
from effdet_torch.inference.preprocess import preprocess, scaled_size

CONFIG = get_config("d0", image_size=(128, 192))


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((636, 1024), (512, 512), (318, 512, 2.0)),
        ((230, 352), (256, 256), (167, 256, 1.375)),
        ((1, 1), (512, 512), (512, 512, 1 / 512)),
        ((512, 512), (512, 512), (512, 512, 1.0)),
        ((1, 600), (512, 512), (1, 512, 600 / 512)),
        ((3000, 1), (512, 512), (512, 1, 3000 / 512)),
    ],
)
def test_scaled_size(size: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int, float]) -> None:
    assert scaled_size(size, canvas) == (*expected[:2], pytest.approx(expected[2], rel=1e-6))


def test_size_is_a_truncated_float32_product() -> None:
    # 512 / 639 * 639 is a little less than 512 in float32: rounding, or float64, would give 512.
    lost = [n for n in range(2, 2000) if scaled_size((n, n), (512, 512))[0] == 511]
    assert any(int(n * (512 / n)) == 512 for n in lost)


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
    batch, _ = preprocess([image], CONFIG)
    mean, std = (np.array(values, np.float32) for values in (CONFIG.mean_rgb, CONFIG.std_rgb))
    pixels = batch[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pixels[:, :100], (image.astype(np.float32) - mean) / std)
    assert (pixels[:, 100:] == 0).all()


def test_advprop_pads_before_it_scales() -> None:
    config = get_config("d0", image_size=128, normalization="advprop")
    batch, _ = preprocess([np.full((64, 128, 3), 255, np.uint8)], config)
    assert (batch[0, :, :64] == 1).all()
    assert (batch[0, :, 64:] == -1).all()


def test_close_to_interpolate() -> None:
    image = _image(333, 517)
    batch, _ = preprocess([image], CONFIG)
    height, width, _ = scaled_size((333, 517), (128, 192))
    planes = torch.from_numpy(image).permute(2, 0, 1).float()[None]

    def interpolated(antialias: bool) -> torch.Tensor:
        resized = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=antialias)[0]
        mean, std = (torch.tensor(values)[:, None, None] for values in (CONFIG.mean_rgb, CONFIG.std_rgb))
        return (resized - mean) / std

    result = batch[0, :, :height, :width]
    torch.testing.assert_close(result, interpolated(antialias=False), atol=5e-4, rtol=0)
    assert (result - interpolated(antialias=True)).abs().max() > 0.5


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (3, 10, 10), (0, 10, 3), None])
def test_not_an_rgb_image_and_no_image(shape: tuple[int, ...] | None) -> None:
    with pytest.raises(EffdetError, match="expected RGB" if shape else "no images"):
        preprocess([np.zeros(shape, np.uint8)] if shape else [], CONFIG)
